package command

import "time"

const (
	// maxWords bounds notes, details and remedies, bytes.
	maxWords = 2 << 10
	// maxName bounds names and objects, bytes; maxKey keys: a step's, a kind and a box.
	maxName = 200
	maxKey  = 400
	// maxWarnings bounds the warnings of a command: as many as a step keeps.
	maxWarnings = 100
	// maxOutput is how much of what scripts print is kept: the end, bytes. What is no
	// UTF-8 grows on its way.
	maxOutput = 4 << 10
	// maxMemory bounds what a handler leaves, bytes: package runs' own bound.
	maxMemory = 64 << 10
	// maxInput bounds a command's input, bytes: ids of 2,000 VMs are 80 kB.
	maxInput = 256 << 10
	// maxOpen bounds the commands of a box that are not done, and maxForeign those of one
	// other site: a plan has 200 steps at once.
	maxOpen    = 1000
	maxForeign = 2000
	// maxHeld is how many commands a box has at once, going on or in line; maxHanded how
	// many bytes of them one answer has: call's own bound is 1 MiB.
	maxHeld   = 256
	maxHanded = 512 << 10
	// maxSetup bounds what a box is to be, bytes, in an answer of its own.
	maxSetup = 960 << 10
	// maxTold bounds what a box tells at once of its commands, in commands, and maxBody
	// in bytes of all that it tells.
	maxTold = 64
	// MaxBody bounds what a box sends with one request, bytes.
	MaxBody = 4 << 20
	// maxBoxes bounds the boxes that one command is for: the hosts of a domain.
	maxBoxes = 64
	// maxPlans bounds the plans whose newest epoch a box keeps; the one that was used
	// longest ago goes.
	maxPlans = 4096
	// maxFence bounds that file, bytes: some 200 a plan.
	maxFence = 2 << 20
	// atOnce is how many handlers of a box are called at once, and as many for questions
	// besides: a platform takes no more. Who waits to look again at a job or a guest does
	// not count.
	atOnce = 16
	// MaxPolls bounds the boxes whose exchanges wait at one replica.
	MaxPolls = 1024

	// pollFor is how long a manager lets a box's exchange wait for something to do: less
	// than any proxy's patience, and than call's own limit of 20 s.
	pollFor = 15 * time.Second
	// lookSoon is how soon is looked for what other replicas have entered, and lookEvery how
	// often at most, later: twice as rarely each time. What this one has entered rings.
	lookSoon  = 20 * time.Millisecond
	lookEvery = 500 * time.Millisecond
	// setupEvery is how often is looked whether a box is to be something else.
	setupEvery = 3 * time.Second
	// waitFor is how long a step waits for its command before it lets go and comes again:
	// most are done. answerFor is how long a question waits.
	waitFor   = 2 * time.Second
	answerFor = 10 * time.Second
	// comeAgain is when a step comes again that has waited.
	comeAgain = 10 * time.Millisecond
	// touchEvery is how often a row notes that somebody waits for it.
	touchEvery = 10 * time.Second
	// orphanFor is after how long nobody has come for a command that it is cancelled: a
	// manager that was killed is back by then, or another has taken over.
	orphanFor = 3 * time.Minute
	// patience is how long a box may say nothing, or not take a command, before its steps
	// fail: it may be restarting.
	patience = 2 * time.Minute
	// sweepEvery is how often is looked for commands that nobody wants.
	sweepEvery = 2 * time.Second
	// keepFor is how long a row is kept that is done, and a question's: an outcome may
	// be asked for by a manager that was away.
	keepFor         = 24 * time.Hour
	keepQuestionFor = time.Minute
	// pruneBatch is how many rows one transaction deletes.
	pruneBatch = 500
	// progressEvery is how often a box tells how far commands are.
	progressEvery = time.Second
	// firstPause and longestPause bound how long a box waits before it asks a manager
	// again that was away.
	firstPause   = 200 * time.Millisecond
	longestPause = 10 * time.Second
	// againLeast bounds how often a job is looked at.
	againLeast = 10 * time.Millisecond
	// upFor is how long an agent that begins takes no commands because its box is not up
	// yet: recoveries that an earlier one left are taken over one by one.
	upFor = time.Minute
	// upLook is how often that is looked at.
	upLook = 200 * time.Millisecond
	// askAgain is how often a box asks a guest again that is not up yet, within the time
	// of one question.
	askAgain = time.Second
	// memberFor is how long a VM counts as recovered here after it was named last, unless
	// a committed recovery has it: no test or undecided recovery is kept for so long.
	memberFor = 90 * 24 * time.Hour
	// noteFor is how long a refusal may take to be noted.
	noteFor = 5 * time.Second
	// abroadFor is how long one call of another site's manager waits there.
	abroadFor = 2 * time.Second
)
