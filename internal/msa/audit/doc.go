// Package audit is the log of who did what: appended to in the transaction of what
// is logged, never changed, and chained, so that a row that was changed, removed,
// inserted or moved is found, and where.
//
//	hash(n) = SHA-256( "holdfast audit 1" | hash(n-1) | seq | at | fields )
//
// seq and at are 8 bytes, big-endian; each field is its length in 8 bytes and its
// bytes; hash(0) is 32 zeroes. The row "audit" of audit_head has the newest seq and
// hash: transactions that append take it first, one after the other, and rows cut
// off at the end are missed.
//
// Who can write the database can make another chain from any row on. What shows that
// is a [Head] that was kept elsewhere: exports have it, the manager logs it, and
// [Verify] is given it back.
//
// A caller appends last in its transaction: the head is what all wait for, and who
// holds it while waiting for another row makes a deadlock likely.
//
// No statement of the product changes or deletes a row of audit; a test holds that.
package audit
