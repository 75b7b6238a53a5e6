// Package ring is the little of Linux's io_uring that a disk server needs:
// one ring, used by one thread, that reads, writes and syncs a file and
// receives and sends on a socket.
//
// A [Ring] is made, used and closed by one goroutine that is locked to its
// thread: where the kernel can, the ring is bound to that thread
// (IORING_SETUP_SINGLE_ISSUER) and completions are delivered only when it
// asks for them (IORING_SETUP_DEFER_TASKRUN), which is what makes it cheaper
// than a pool of threads.
//
// Requests are prepared by the methods named after them, each with a tag;
// Enter submits them and waits; Next returns completions by their tags.
// Memory handed to a request belongs to the kernel until its completion was
// returned: the caller keeps it referenced, and it is never on a stack.
package ring
