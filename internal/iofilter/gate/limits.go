package gate

import "time"

// SelfRelease is the longest a host keeps back completions for one cut when
// nobody says otherwise. A round normally takes about one round trip; at 100 ms
// a guest notices nothing, and a cut that needs longer is repeated soon anyway.
const SelfRelease = 100 * time.Millisecond
