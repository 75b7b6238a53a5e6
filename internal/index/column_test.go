package index

import "github.com/klauspost/compress/zstd"

// columnOf codes numbers, columnInto decodes them and says how much is left.
func columnOf(enc any, vals []uint64) []byte {
	p := packer{enc: enc.(*zstd.Encoder)}
	return p.column(nil, vals)
}

func columnInto(dec any, coded []byte, vals []uint64) (left int, err error) {
	u := unpacker{b: coded, dec: dec.(*zstd.Decoder)}
	u.column(vals)
	return len(u.b), u.err
}
