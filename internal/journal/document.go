package journal

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"

	"holdfast/internal/errs"
)

// A document is a small clear object that a person may have to read with
// nothing but a pager: a magic line, JSON, and a line with the digest of all
// before it.
const (
	magicDomain  = "holdfast container\n"
	magicWrap    = "holdfast key\n"
	digestPrefix = "sha256:"
)

var errNotDocument = errors.New("the magic line is missing")

// putDocument encodes v under a magic line and returns the object's body.
func putDocument(magic string, v any) ([]byte, error) {
	j, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, errs.E("journal.putDocument", errs.Internal, "", err)
	}
	b := append([]byte(magic), j...)
	b = append(b, '\n')
	sum := sha256.Sum256(b)
	b = append(b, digestPrefix+hex.EncodeToString(sum[:])+"\n"...)
	return b, nil
}

// documentDigest is the digest a document carries: of all but its last line.
func documentDigest(body []byte) [32]byte {
	return sha256.Sum256(body[:max(0, len(body)-digestLine)])
}

const digestLine = len(digestPrefix) + 2*sha256.Size + 1

// parseDocument decodes a body made by putDocument. A body without the magic
// line gives errNotDocument; a body that does not match its digest is of kind
// Corrupt.
func parseDocument(magic string, body []byte, v any) error {
	const op = "journal.parseDocument"
	if !bytes.HasPrefix(body, []byte(magic)) {
		return errNotDocument
	}
	if len(body) < len(magic)+digestLine {
		return errs.New(op, errs.Corrupt, "", "it is cut off")
	}
	cut := len(body) - digestLine
	sum := documentDigest(body)
	if string(body[cut:]) != digestPrefix+hex.EncodeToString(sum[:])+"\n" {
		return errs.New(op, errs.Corrupt, "", "its bytes do not match its digest")
	}
	if err := json.Unmarshal(body[len(magic):cut], v); err != nil {
		return errs.E(op, errs.Invalid, "", err)
	}
	return nil
}

func digestText(d [32]byte) string { return hex.EncodeToString(d[:]) }
