// Package frame reads the frames of one journal object that an image takes
// something of: which they are, which of them one request reads together, and
// how they are opened. Full rehydration and on-demand reading share it.
//
// What is opened here was compared with its seal and, unless the caller says
// otherwise, with the hashes taken at capture. The package keeps no state and
// starts no goroutine.
package frame
