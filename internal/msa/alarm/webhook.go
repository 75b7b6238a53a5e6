package alarm

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"holdfast/internal/errs"
)

// The headers of a webhook's request. The signature is
// "sha256=" + hex(HMAC-SHA256(key, TIMESTAMP + "." + BODY)): a receiver computes it
// again, and refuses what is old, or has an id it knows.
const (
	HeaderEvent     = "Holdfast-Event"     // the event's id
	HeaderTimestamp = "Holdfast-Timestamp" // when it was sent, seconds since 1970
	HeaderSignature = "Holdfast-Signature"
)

// Sign is the signature of a body sent at a time.
func Sign(key string, at time.Time, body []byte) string {
	h := hmac.New(sha256.New, []byte(key))
	fmt.Fprintf(h, "%d.", at.Unix())
	h.Write(body)
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// sendWebhook posts an event.
func sendWebhook(ctx context.Context, o *Outlet, secret string, e *Event, now time.Time) error {
	body, err := payload(e)
	if err != nil {
		return err
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, o.Address, bytes.NewReader(body))
	if err != nil {
		return errs.E("alarm.send", errs.Invalid, o.Name, err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("User-Agent", "holdfast-msa")
	r.Header.Set(HeaderEvent, e.ID)
	r.Header.Set(HeaderTimestamp, strconv.FormatInt(now.Unix(), 10))
	if secret != "" {
		r.Header.Set(HeaderSignature, Sign(secret, now, body))
	}
	c := o.tlsConfig()
	c.ServerName = r.URL.Hostname()
	t := &http.Transport{TLSClientConfig: c, Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true}
	defer t.CloseIdleConnections()
	client := &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error {
		return errors.New("the receiver sends us elsewhere: correct the outlet's address")
	}}
	answer, err := client.Do(r)
	if err != nil {
		return unreachable(o, err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(answer.Body, maxReply)); err != nil {
		return unreachable(o, err)
	}
	if answer.StatusCode/100 != 2 {
		return unreachable(o, fmt.Errorf("the receiver answered %d", answer.StatusCode))
	}
	return nil
}
