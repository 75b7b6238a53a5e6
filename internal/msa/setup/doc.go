// Package setup says what a manager wants an appliance to be, and what an appliance
// tells of itself: the words that both sides of their exchange use.
//
//	manager   Setup   desired: the domains, VMs and addresses of one box, whole    ──▶ box
//	box       Report  which Setup it is, what of it cannot be, figures, domains    ──▶ manager
//
// A Setup is never a difference: a box that was away, or was made anew, needs the newest
// one and nothing before it. Its Generation is a digest of all the rest, so that two
// that are equal have one, whichever replica made them; a box that is what a Setup says
// tells that Generation, and by that lets go of what the Setup has no more.
//
// A Setup holds secrets: the box keeps it in a file of mode 0600, and nobody logs it.
package setup
