package talk

import (
	"bufio"
	"bytes"
	"errors"
	"io"
)

// MaxLine bounds a line, in bytes without its end: several times the longest
// reply. A longer line is noise.
const MaxLine = 256

// Lines cuts a byte stream into lines. Not safe for concurrent use.
type Lines struct {
	r *bufio.Reader
}

// NewLines returns the lines of r.
func NewLines(r io.Reader) *Lines {
	return &Lines{r: bufio.NewReaderSize(r, MaxLine+2)}
}

// Next returns the next line that is neither empty nor longer than MaxLine,
// without its end (LF, CR LF or CR CR LF). A last line without an end is not a
// line. The error is the reader's.
func (l *Lines) Next() (string, error) {
	for {
		b, err := l.r.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			if err := l.skip(); err != nil {
				return "", err
			}
		case err != nil:
			return "", err
		default:
			if b = bytes.TrimRight(b, "\r\n"); len(b) > 0 && len(b) <= MaxLine {
				return string(b), nil
			}
		}
	}
}

// skip reads up to the end of the line it is in.
func (l *Lines) skip() error {
	for {
		_, err := l.r.ReadSlice('\n')
		if !errors.Is(err, bufio.ErrBufferFull) {
			return err
		}
	}
}
