package frame

// GapSize is the longest run of unwanted bytes that is read along, rather than
// paying for another request.
const GapSize = 256 << 10
