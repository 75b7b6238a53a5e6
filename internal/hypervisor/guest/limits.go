package guest

import "time"

const (
	// pollFirst and pollLast bound how often a program is asked for that runs: most are
	// short.
	pollFirst = 50 * time.Millisecond
	pollLast  = time.Second
	// askLimit bounds one question.
	askLimit = 10 * time.Second
	// killLimit bounds the end of a program whose time is up.
	killLimit = 5 * time.Second
	// patience is how often in a row the agent may not answer while a program runs.
	patience = 5
	// maxTable bounds the file a guest tells its listening ports in, bytes, and maxRead
	// one piece of it.
	maxTable = 1 << 20
	maxRead  = 32 << 10
	// maxBoot bounds the name of a boot, bytes: it is a UUID.
	maxBoot = 64
)
