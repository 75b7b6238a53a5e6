package kmstest

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
)

// Transit is an HTTP server that behaves as the transit engine of Vault is
// documented to, mounted at transit/: versions, associated data, keys made by
// encrypting, and the statuses of refusals, which repeat the token to see that
// nobody shows them. Make it with [NewTransit]; it is safe for concurrent use.
type Transit struct {
	token string
	mu    sync.Mutex
	keys  map[string][]cipher.AEAD
}

// NewTransit returns an engine with keys of these names, which lets in whoever
// has the token.
func NewTransit(token string, names ...string) *Transit {
	e := &Transit{token: token, keys: make(map[string][]cipher.AEAD)}
	for _, n := range names {
		e.Rotate(n)
	}
	return e
}

// Rotate makes a new version of a key, the first if there is none.
func (e *Transit) Rotate(name string) {
	k := make([]byte, 32)
	rand.Read(k)
	b, err := aes.NewCipher(k)
	if err != nil {
		panic(err)
	}
	g, err := cipher.NewGCM(b)
	if err != nil {
		panic(err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keys[name] = append(e.keys[name], g)
}

// ServeHTTP implements http.Handler.
func (e *Transit) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	refuse := func(status int) { http.Error(w, `{"errors":["no: `+r.Header.Get("X-Vault-Token")+`"]}`, status) }
	if r.Header.Get("X-Vault-Token") != e.token {
		refuse(http.StatusForbidden)
		return
	}
	verb, name, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v1/transit/"), "/")
	key := e.versions(name)
	var in struct {
		Plaintext  []byte `json:"plaintext"`
		Ciphertext string `json:"ciphertext"`
		AD         []byte `json:"associated_data"`
	}
	if r.Method == http.MethodPost && json.NewDecoder(r.Body).Decode(&in) != nil {
		refuse(http.StatusBadRequest)
		return
	}
	answer := map[string]any{}
	switch verb {
	case "keys":
		if key == nil {
			refuse(http.StatusNotFound)
			return
		}
		answer["type"], answer["latest_version"], answer["supports_encryption"] = "aes256-gcm96", len(key), true
	case "encrypt":
		if key == nil { // the engine makes it
			e.Rotate(name)
			key = e.versions(name)
		}
		nonce := make([]byte, 12)
		rand.Read(nonce)
		answer["ciphertext"] = fmt.Sprintf("vault:v%d:%s", len(key), base64.StdEncoding.EncodeToString(key[len(key)-1].Seal(nonce, nonce, in.Plaintext, in.AD)))
	case "decrypt":
		var v int
		var text string
		_, err := fmt.Sscanf(strings.Replace(in.Ciphertext, ":", " ", 2), "vault v%d %s", &v, &text)
		b, derr := base64.StdEncoding.DecodeString(text)
		if err != nil || derr != nil || v < 1 || v > len(key) || len(b) < 12 {
			refuse(http.StatusBadRequest)
			return
		}
		plain, err := key[v-1].Open(nil, b[:12], b[12:], in.AD)
		if err != nil {
			refuse(http.StatusBadRequest)
			return
		}
		answer["plaintext"] = plain
	default:
		refuse(http.StatusNotFound)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"data": answer})
}

func (e *Transit) versions(name string) []cipher.AEAD {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.keys[name]
}
