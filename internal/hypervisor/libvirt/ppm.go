package libvirt

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"strconv"

	"holdfast/internal/hypervisor"
)

// decodePPM reads a raw portable pixmap with one byte for each colour, the form
// in which older QEMUs show a screen:
//
//	P6 WIDTH HEIGHT 255\n and then WIDTH x HEIGHT x (red, green, blue)
//
// The words may be apart by any white space, and comments from # to the end of
// a line.
func decodePPM(b []byte) (*image.NRGBA, error) {
	rest, ok := bytes.CutPrefix(b, []byte("P6"))
	if !ok {
		return nil, errors.New("neither a PNG nor a PPM")
	}
	var head [3]int
	for i := range head {
		n, after, err := ppmNumber(rest)
		if err != nil {
			return nil, err
		}
		head[i], rest = n, after
	}
	w, h := head[0], head[1]
	if w < 1 || h < 1 || head[2] != 255 || w > hypervisor.MaxScreenshot || h > hypervisor.MaxScreenshot/3/w {
		return nil, fmt.Errorf("a PPM of %d by %d with colours up to %d", w, h, head[2])
	}
	if len(rest) != 1+3*w*h {
		return nil, fmt.Errorf("a PPM of %d by %d with %d bytes", w, h, len(rest))
	}
	picture := image.NewNRGBA(image.Rect(0, 0, w, h))
	for i, from := 0, rest[1:]; len(from) > 0; i, from = i+4, from[3:] {
		copy(picture.Pix[i:], from[:3])
		picture.Pix[i+3] = 0xff
	}
	return picture, nil
}

// ppmNumber reads a number of at most seven digits, after white space and
// comments.
func ppmNumber(b []byte) (n int, rest []byte, err error) {
	for len(b) > 0 {
		if b[0] == '#' {
			_, after, _ := bytes.Cut(b, []byte("\n"))
			b = after
			continue
		}
		if !bytes.ContainsRune([]byte(" \t\r\n\v\f"), rune(b[0])) {
			break
		}
		b = b[1:]
	}
	end := 0
	for end < len(b) && end < 8 && b[end] >= '0' && b[end] <= '9' {
		end++
	}
	if n, err = strconv.Atoi(string(b[:end])); err != nil || end == 8 {
		return 0, nil, errors.New("a PPM whose head is no number")
	}
	return n, b[end:], nil
}
