package journal

import (
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"holdfast/internal/dr"
	"holdfast/internal/errs"
	"holdfast/internal/segment"
)

// firstGeneration is the number of the data key a container is made with.
const firstGeneration = 1

// What keys are derived from a data key for, besides those of package
// segment. Part of the format.
const (
	infoCommit  = "holdfast key commitment v1"  // salt: data key id
	infoEndorse = "holdfast key endorsement v1" // no salt
	infoWrapMAC = "holdfast wrapped key v1"     // no salt
)

// macSize is the length of endorsements and of the MACs of wraps, in bytes.
const macSize = sha256.Size

// endorsement is how a generation says of the next that it is genuine.
type endorsement struct {
	Generation uint32  `json:"generation"` // number of the endorsed one, from 2 on
	By         dr.UUID `json:"by"`         // data key of the generation before
	MAC        []byte  `json:"mac"`
}

// statement is the sealed content of keys/<data key>/complete: the rotation
// got this far, so the generation may be used.
type statement struct {
	Domain     dr.DomainID  `json:"domain"`
	DataKey    dr.UUID      `json:"data_key"`
	Generation uint32       `json:"generation"`
	Previous   dr.UUID      `json:"previous"`
	Created    time.Time    `json:"created"`
	By         string       `json:"by"` // host, for people
	Wraps      []statedWrap `json:"wraps"`
	Earlier    []earlierKey `json:"earlier"`
}

// statedWrap is a wrapped key as it was when its generation was finished.
type statedWrap struct {
	Recipient dr.UUID       `json:"recipient"`
	Kind      RecipientKind `json:"kind"`
	Hint      string        `json:"hint,omitempty"`
	Digest    string        `json:"digest"` // SHA-256 of the whole object
}

// earlierKey is a generation that existed when a later one was finished.
type earlierKey struct {
	DataKey    dr.UUID   `json:"data_key"`
	Generation uint32    `json:"generation"`
	Created    time.Time `json:"created"`
}

// deriveKey derives a 32-byte key for one purpose.
func deriveKey(key segment.DataKey, salt []byte, info string) []byte {
	b, err := hkdf.Key(sha256.New, key[:], salt, info, 32)
	if err != nil {
		panic("journal: key derivation refused constant lengths: " + err.Error())
	}
	return b
}

// endorse is the MAC by which data key before (id by) vouches for data key
// next (id) as generation number of the domain.
func endorse(before segment.DataKey, domain dr.DomainID, by, id dr.UUID, number uint32, next segment.DataKey) []byte {
	m := hmac.New(sha256.New, deriveKey(before, nil, infoEndorse))
	m.Write(domain.UUID[:])
	m.Write(by[:])
	m.Write(id[:])
	m.Write(binary.LittleEndian.AppendUint32(nil, number))
	m.Write(deriveKey(next, id[:], infoCommit))
	return m.Sum(nil)
}

// finish reads the completion document of g, which is open, and notes why g
// may not be used for sealing when there is none or it is of no use.
func (g *generation) finish(body []byte, domain dr.DomainID) {
	if body == nil {
		return
	}
	s, err := openStatement(g.key, body)
	if err == nil {
		err = s.check(g, domain)
	}
	if err != nil {
		g.why = "its completion is damaged: " + err.Error()
		return
	}
	g.statement, g.created, g.complete, g.why = s, s.Created, true, ""
}

func openStatement(key segment.DataKey, body []byte) (*statement, error) {
	_, plain, err := segment.OpenBlob(key, body)
	if err != nil {
		return nil, err
	}
	return parseStatement(plain)
}

// parseStatement decodes and bounds the content of a completion document.
func parseStatement(plain []byte) (*statement, error) {
	var s statement
	if err := json.Unmarshal(plain, &s); err != nil {
		return nil, errs.E("journal.parseStatement", errs.Corrupt, "", err)
	}
	if len(s.Wraps) > maxWraps || len(s.Earlier) > maxGenerations || s.Generation <= firstGeneration {
		return nil, errs.New("journal.parseStatement", errs.Invalid, "", "out of bounds")
	}
	return &s, nil
}

func (s *statement) check(g *generation, domain dr.DomainID) error {
	if s.Domain != domain || s.DataKey != g.id || s.Generation != g.number || s.Previous != g.previous.id {
		return errors.New("it speaks of another generation")
	}
	return nil
}

// replaced tells of wraps that are no longer what they were when the
// generation was finished.
func (g *generation) replaced(w *storedWrap) bool {
	if g.statement == nil || w.body == nil {
		return false
	}
	for _, s := range g.statement.Wraps {
		if s.Recipient == w.recipient {
			return s.Digest != digestText(sha256.Sum256(w.body))
		}
	}
	return false
}

// refuseDowngrade refuses to write under the current generation when id, under
// which somebody sealed before, is none of the complete ones or a later one:
// the store has lost or hides a rotation.
func (c *Container) refuseDowngrade(op, key string, id dr.UUID) error {
	g := c.keys.find(id)
	if g != nil && g.open && g.complete && g.number <= c.current().number {
		return nil
	}
	return errs.New(op, errs.Corrupt, key, fmt.Sprintf(
		"it was sealed under data key %s, which came after generation %d, the newest that is complete here: the store has lost or hides a rotation of the data key", id, c.current().number)).
		WithRemedy("restore what is missing under " + keyPrefix(id) + " from another copy of the container or the store's own versions; then run key rotate-data")
}
