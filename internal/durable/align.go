package durable

import "unsafe"

// AlignedBytes returns n zero bytes whose first lies on a page boundary, as
// direct I/O demands. The slice's capacity ends with it. n < 0 counts as 0.
func AlignedBytes(n int) []byte {
	n = max(n, 0)
	b := make([]byte, n+PageSize)
	skip := -int(uintptr(unsafe.Pointer(unsafe.SliceData(b)))) & (PageSize - 1)
	return b[skip : skip+n : skip+n]
}

// pageAddress reports whether b starts on a page boundary.
func pageAddress(b []byte) bool {
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))%PageSize == 0
}

// Aligned reports whether b starts on a page boundary and is whole pages long,
// so that direct I/O may use it as it is. An empty b is aligned.
func Aligned(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	return pageAddress(b) && len(b)%PageSize == 0
}
