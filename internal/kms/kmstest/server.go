package kmstest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Vault is a running HashiCorp Vault whose transit engine is mounted at
// transit/. Its fields do not change.
type Vault struct {
	Address string `json:"address"` // host:port, without TLS
	Token   string `json:"token"`   // may do everything
	Unseal  []byte `json:"unseal"`  // the share that unseals it
}

// startLimit is how long the server may need until it answers, on a loaded
// machine.
const startLimit = 2 * time.Minute

// StartVault runs a Vault of its own until the test ends. The test fails, with
// the make target that builds it, when there is none.
func StartVault(t testing.TB) *Vault {
	t.Helper()
	program := filepath.Join(moduleRoot(t), "bin", "vault")
	if _, err := os.Stat(program); err != nil {
		t.Fatalf("there is no %s: run make kms-server", program)
	}
	var said bytes.Buffer
	cmd := exec.Command(program)
	cmd.Stderr = &said
	in, err := cmd.StdinPipe() // the server ends when this does, whatever becomes of us
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill := time.AfterFunc(startLimit, func() { _ = cmd.Process.Kill() })
	t.Cleanup(func() {
		kill.Reset(startLimit) // to end is given as long
		_ = in.Close()
		_ = cmd.Wait()
		kill.Stop()
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	v := new(Vault)
	if err != nil || json.Unmarshal(line, v) != nil {
		t.Fatalf("the key service does not start: %v %q\n%s", err, line, &said)
	}
	kill.Stop()
	v.Call(t, http.MethodPost, "sys/mounts/transit", map[string]any{"type": "transit"})
	return v
}

// Call asks for something with the token that may do everything, and returns
// the answer. The test fails when it is refused.
func (v *Vault) Call(t testing.TB, method, path string, in any) map[string]any {
	t.Helper()
	body, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+v.Address+"/v1/"+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Vault-Token", v.Token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer map[string]any
	err = json.NewDecoder(resp.Body).Decode(&answer)
	if resp.StatusCode/100 != 2 || err != nil && resp.StatusCode != http.StatusNoContent {
		t.Fatalf("%s %s: status %d, %v %v", method, path, resp.StatusCode, answer, err)
	}
	return answer
}

// TokenFor makes a token that may do what the policy says and nothing else.
func (v *Vault) TokenFor(t testing.TB, name, policy string) string {
	t.Helper()
	v.Call(t, http.MethodPut, "sys/policies/acl/"+name, map[string]any{"policy": policy})
	answer := v.Call(t, http.MethodPost, "auth/token/create", map[string]any{"policies": []string{name}, "no_default_policy": true})
	auth, _ := answer["auth"].(map[string]any)
	token, _ := auth["client_token"].(string)
	if token == "" {
		t.Fatalf("no token in the answer")
	}
	return token
}

func moduleRoot(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		} else if dir == filepath.Dir(dir) {
			t.Fatal("the test does not run inside the module")
		}
	}
}
