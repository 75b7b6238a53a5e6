package bundle

import "regexp"

// blank stands for what was a secret.
const blank = "[removed]"

// secrets are the forms of secrets, and what is left of them: the part that says what
// it was.
var secrets = []struct {
	form *regexp.Regexp
	with string
}{
	{regexp.MustCompile(`(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.{0,1000}?.{0,1000}?.{0,1000}?.{0,1000}?-----END [A-Z0-9 ]*PRIVATE KEY-----`), blank},
	{regexp.MustCompile(`(?m)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----[^"'\n]*(?:\n[A-Za-z0-9+/=]+$)*`), blank}, // one that was cut
	{regexp.MustCompile(`(?i)AGE-(PLUGIN-[A-Z0-9-]+|SECRET-KEY)-[0-9A-Z]+`), blank},
	{regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://[^\s:/@"\\]*):[^\s@"\\]+@`), "$1:" + blank + "@"},
	{regexp.MustCompile(`\b(AKIA|ASIA)[0-9A-Z]{16}\b`), blank},
	{regexp.MustCompile(`(?i)\b(bearer|basic|hmac)\s+[A-Za-z0-9._~+/=-]{8,}`), "$1 " + blank},
	{regexp.MustCompile(`(?i)(sig|signature|x-amz-signature|x-amz-security-token|access_token|sharedaccesskey|accountkey)=[^&\s"';]+`), "$1=" + blank},
	{regexp.MustCompile(`(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|access[_-]?key)[a-z0-9_-]*\\*["']?\s*[:=]\s*\\*["']?)([^\s"',;}\]\\]+)`), "${1}" + blank},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*`), blank},
	{regexp.MustCompile(`\bhf[a-z]?_[A-Za-z0-9_-]{16,}`), blank},
}

// Scrub blanks what has the form of a secret: keys, passwords in addresses, signatures,
// tokens, and the values of fields that are called so. It would rather blank too much.
func Scrub(b []byte) []byte {
	for _, s := range secrets {
		b = s.form.ReplaceAll(b, []byte(s.with))
	}
	return b
}
