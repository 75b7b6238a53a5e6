package replog

// layout places records into batches and batches into files. It is a value:
// Append tries a copy first, so that a refusal takes nothing, and then takes
// the same steps for real.
type layout struct {
	fileSize int64
	hasFile  bool
	off      int64 // where the current or next batch starts in the file
	open     bool  // the current batch takes more records
	count    int   // records of the current batch
	pages    int   // payload pages of the current batch
	carry    int   // upper bound of the bytes in force before the next record
}

// step is what placing one record needs first.
type step uint8

const (
	sameBatch step = iota
	newBatch
	newFile
)

// place puts a record of that many payload pages, which adds at most growth
// bytes to what is in force, after all placed before.
func (y *layout) place(pages, growth int) step {
	s := y.next(pages)
	switch s {
	case newFile:
		y.hasFile, y.off = true, int64(1+carryPages(y.carry))*pageSize
	case newBatch:
		y.close()
	}
	if s != sameBatch {
		y.open, y.count, y.pages = true, 0, 0
	}
	y.count++
	y.pages += pages
	y.carry += growth
	return s
}

func (y *layout) next(pages int) step {
	if !y.hasFile {
		return newFile
	}
	if y.open && y.count < maxBatchRecords && y.pages+pages <= maxBatchPages &&
		y.off+batchBytes(y.count+1, y.pages+pages) <= y.fileSize {
		return sameBatch
	}
	if y.end()+batchBytes(1, pages) <= y.fileSize {
		return newBatch
	}
	return newFile
}

// end is where a batch after the current one starts.
func (y *layout) end() int64 {
	if !y.open {
		return y.off
	}
	return y.off + batchBytes(y.count, y.pages)
}

// close ends the current batch, because it is full or on its way to disk.
func (y *layout) close() {
	y.off = y.end()
	y.open = false
}

// fits reports whether a record fits a file at all.
func (y *layout) fits(pages, carryMax int) bool {
	return int64(1+carryPages(carryMax))*pageSize+batchBytes(1, pages) <= y.fileSize
}
