package azblob

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/xml"
	"fmt"
	"hash/crc64"
	"io"
	"maps"
	"math/rand/v2"
	"mime"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/store"
)

// model is the service's documented behaviour as far as the driver uses it,
// as a transport: for the parts that no emulator has, and for answers that
// real servers give on bad days only.
type model struct {
	worm       bool                                        // versions are kept and can be locked
	ignoreFrom bool                                        // startFrom has no effect, as in old emulators
	short      *rand.Rand                                  // pages end early and may be empty; nil: they do not
	page       int                                         // most names in one answer; 0: as many as asked for
	missing    bool                                        // the blob container is not there
	before     func(*http.Request) (*http.Response, error) // answers instead when it returns either
	after      func(*http.Request, *http.Response) (*http.Response, error)

	mu       sync.Mutex
	blobs    map[string]*version // current, by name
	versions map[string]*version // previous, by version id
	count    int                 // of versions ever made
	pages    int                 // answers with a marker
	log      []string            // requests: method, name and what is special
}

type version struct {
	id       string
	body     []byte
	modified time.Time
	mode     string
	until    time.Time
}

const container0 = "/cont"

func newModel() *model { return &model{blobs: map[string]*version{}, versions: map[string]*version{}} }

func (m *model) open(t testing.TB, prefix string) *Store {
	t.Helper()
	u := store.URL{Scheme: store.SchemeAzure, Account: "account", Bucket: "cont", Prefix: prefix, Endpoint: "https://model.invalid"}
	st, err := Open(t.Context(), u, Options{Transport: m, Getenv: env(envKey, "a2V5")})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// requests returns and forgets what was asked for.
func (m *model) requests() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := m.log
	m.log = nil
	return out
}

func answer(req *http.Request, status int, body []byte, headers ...string) *http.Response {
	h := http.Header{"Date": {time.Now().UTC().Format(http.TimeFormat)}, "X-Ms-Request-Id": {"6d0e-1"}, "Content-Length": {strconv.Itoa(len(body))}}
	for i := 0; i < len(headers); i += 2 {
		h.Set(headers[i], headers[i+1])
	}
	if req.Method == http.MethodHead {
		body = nil
	}
	return &http.Response{StatusCode: status, Status: strconv.Itoa(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: req}
}

func refuse(req *http.Request, status int, code string) *http.Response {
	return answer(req, status, []byte("<Error><Code>"+code+"</Code></Error>"), "x-ms-error-code", code)
}

func (m *model) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := req.Context().Err(); err != nil {
		return nil, err
	}
	for name, values := range maps.Clone(req.Header) { // the SDK writes names as it likes
		delete(req.Header, name)
		req.Header[http.CanonicalHeaderKey(name)] = values
	}
	if m.before != nil {
		if resp, err := m.before(req); resp != nil || err != nil {
			return resp, err
		}
	}
	var body []byte
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body.Close()
	}
	m.mu.Lock()
	resp := m.serve(req, body)
	m.mu.Unlock()
	if m.after != nil {
		return m.after(req, resp)
	}
	return resp, nil
}

func (m *model) serve(req *http.Request, body []byte) *http.Response {
	q := req.URL.Query()
	name, isBlob := strings.CutPrefix(req.URL.Path, container0+"/")
	m.log = append(m.log, strings.TrimSpace(req.Method+" "+name+" "+q.Get("comp")))
	switch {
	case m.missing:
		return refuse(req, 404, "ContainerNotFound")
	case !isBlob && q.Get("comp") == "list":
		return m.list(req)
	case !isBlob && q.Get("comp") == "batch":
		return m.batch(req, body)
	case !isBlob:
		return answer(req, 200, nil, "x-ms-immutable-storage-with-versioning-enabled", strconv.FormatBool(m.worm))
	case req.Method == http.MethodPut && q.Get("comp") == "immutabilityPolicies":
		return m.lock(req, name)
	case req.Method == http.MethodPut:
		return m.put(req, name, body)
	case req.Method == http.MethodDelete:
		return m.remove(req, name, q.Get("versionid"))
	}
	return m.get(req, name)
}

func (m *model) policy(req *http.Request) (mode string, until time.Time, ok bool) {
	mode = strings.ToLower(req.Header.Get("x-ms-immutability-policy-mode"))
	until, err := http.ParseTime(req.Header.Get("x-ms-immutability-policy-until-date"))
	return mode, until, m.worm && err == nil && until.After(time.Now()) && (mode == "locked" || mode == "unlocked")
}

func (m *model) put(req *http.Request, name string, body []byte) *http.Response {
	sum := binary.LittleEndian.AppendUint64(nil, crc64.Checksum(body, crc64.MakeTable(crcPolynomial)))
	if req.Header.Get("x-ms-content-crc64") != base64.StdEncoding.EncodeToString(sum) {
		return refuse(req, 400, "Crc64Mismatch")
	}
	if req.Header.Get("If-None-Match") != "*" || req.Header.Get("x-ms-blob-type") != "BlockBlob" {
		return refuse(req, 400, "TestWantsCreateOnce")
	}
	if m.blobs[name] != nil {
		return refuse(req, 409, "BlobAlreadyExists")
	}
	m.count++
	v := &version{id: fmt.Sprintf("v%06d", m.count), body: body, modified: time.Now()}
	if req.Header.Get("x-ms-immutability-policy-until-date") != "" {
		var ok bool
		if v.mode, v.until, ok = m.policy(req); !ok {
			return refuse(req, 400, "InvalidHeaderValue")
		}
	}
	m.blobs[name] = v
	return answer(req, 201, nil)
}

func (m *model) lock(req *http.Request, name string) *http.Response {
	v := m.blobs[name]
	mode, until, ok := m.policy(req)
	switch {
	case v == nil:
		return refuse(req, 404, "BlobNotFound")
	case !ok:
		return refuse(req, 400, "InvalidHeaderValue")
	case v.mode == "locked" && v.until.After(time.Now()) && (mode != "locked" || until.Before(v.until)):
		return refuse(req, 409, "BlobImmutableDueToPolicy")
	}
	v.mode, v.until = mode, until
	return answer(req, 200, nil)
}

func (m *model) remove(req *http.Request, name, id string) *http.Response {
	v := m.blobs[name]
	if id == "" {
		if v == nil {
			return refuse(req, 404, "BlobNotFound")
		}
		if etag := req.Header.Get("If-Match"); etag != "" && etag != `"`+v.id+`"` {
			return refuse(req, 412, "ConditionNotMet")
		}
		delete(m.blobs, name) // even when locked: the content stays as a version
		if m.worm {
			m.versions[v.id] = v
		}
		return answer(req, 202, nil)
	}
	if v != nil && v.id == id {
		return refuse(req, 403, "OperationNotAllowedOnRootBlob")
	}
	v = m.versions[id]
	switch {
	case v == nil:
		return refuse(req, 404, "BlobNotFound")
	case v.until.After(time.Now()):
		return refuse(req, 409, "BlobImmutableDueToPolicy")
	}
	delete(m.versions, id)
	return answer(req, 202, nil)
}

// batch carries out the deletions of a batch, each as if it had come alone.
func (m *model) batch(req *http.Request, body []byte) *http.Response {
	_, params, err := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if err != nil {
		return refuse(req, 400, "InvalidHeaderValue")
	}
	var out bytes.Buffer
	parts := multipart.NewWriter(&out)
	for in := multipart.NewReader(bytes.NewReader(body), params["boundary"]); ; {
		part, err := in.NextPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			return refuse(req, 400, "InvalidInput")
		}
		one, err := http.ReadRequest(bufio.NewReader(part))
		if err != nil || one.Method != http.MethodDelete {
			return refuse(req, 400, "InvalidInput")
		}
		resp := m.remove(one, strings.TrimPrefix(one.URL.Path, container0+"/"), one.URL.Query().Get("versionid"))
		w, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/http"}, "Content-Id": {part.Header.Get("Content-ID")}})
		if err == nil {
			err = resp.Write(w)
		}
		if err != nil {
			return refuse(req, 500, "InternalError")
		}
	}
	if err := parts.Close(); err != nil {
		return refuse(req, 500, "InternalError")
	}
	return answer(req, 202, out.Bytes(), "Content-Type", "multipart/mixed; boundary="+parts.Boundary())
}

func (m *model) get(req *http.Request, name string) *http.Response {
	v := m.blobs[name]
	if v == nil {
		return refuse(req, 404, "BlobNotFound")
	}
	headers := []string{"Last-Modified", v.modified.UTC().Format(http.TimeFormat), "ETag", `"` + v.id + `"`}
	if v.mode != "" {
		headers = append(headers, "x-ms-immutability-policy-mode", v.mode, "x-ms-immutability-policy-until-date", v.until.UTC().Format(http.TimeFormat))
	}
	if m.worm {
		headers = append(headers, "x-ms-version-id", v.id)
	}
	if req.Method == http.MethodHead {
		return answer(req, 200, v.body, headers...)
	}
	var first, last int64
	if _, err := fmt.Sscanf(req.Header.Get("x-ms-range"), "bytes=%d-%d", &first, &last); err != nil {
		return refuse(req, 400, "TestWantsRange")
	}
	if first >= int64(len(v.body)) {
		return refuse(req, 416, "InvalidRange")
	}
	last = min(last, int64(len(v.body))-1)
	return answer(req, 206, v.body[first:last+1], append(headers, "Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(v.body)))...)
}

type listed struct {
	Name     string
	Length   int    `xml:"Properties>Content-Length"`
	Modified string `xml:"Properties>Last-Modified"`
}

type listing struct {
	XMLName    xml.Name `xml:"EnumerationResults"`
	Blobs      []listed `xml:"Blobs>Blob"`
	NextMarker string
}

func (m *model) list(req *http.Request) *http.Response {
	q := req.URL.Query()
	most, err := strconv.Atoi(q.Get("maxresults"))
	if err != nil || most < 1 {
		return refuse(req, 400, "OutOfRangeQueryParameterValue")
	}
	most = min(most, servicePage)
	if m.page > 0 {
		most = min(most, m.page)
	}
	if m.short != nil {
		most = m.short.IntN(most + 1)
	}
	_, marker, _ := strings.Cut(q.Get("marker"), ":")
	var names []string
	for name := range m.blobs {
		if strings.HasPrefix(name, q.Get("prefix")) && (m.ignoreFrom || name >= q.Get("startFrom")) && name >= marker {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var out listing
	for i, name := range names {
		if i == most {
			m.pages++ // no two markers are the same, as with the service's
			out.NextMarker = fmt.Sprintf("%d:%s", m.pages, name)
			break
		}
		v := m.blobs[name]
		out.Blobs = append(out.Blobs, listed{name, len(v.body), v.modified.UTC().Format(http.TimeFormat)})
	}
	body, err := xml.Marshal(out)
	if err != nil {
		return refuse(req, 500, "InternalError")
	}
	return answer(req, 200, body, "Content-Type", "application/xml")
}
