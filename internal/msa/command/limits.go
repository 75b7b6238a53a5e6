package command

import "time"

const (
	// maxWords bounds notes, details and remedies, bytes.
	maxWords = 2 << 10
	// maxName bounds names and objects, bytes.
	maxName = 200
	// atOnce is how many commands of a box go on at once, and as many questions besides:
	// a platform takes no more at once, and 16 domains' jobs keep no question waiting.
	atOnce = 16
	// pollFor is how long a manager lets a box's exchange wait for something to do: less
	// than any proxy's patience, and than call's own limit.
	pollFor = 15 * time.Second
)
