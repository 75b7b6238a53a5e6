// Package command has a manager's steps done by appliances: each effect of a plan is
// one command to one box of the site it is about, or to several.
//
//	manager that runs the plan          manager of the site            box
//	Effects ──own site──────────────────▶ Desk ── row ──◀─long poll── Agent ─▶ Handler
//	        ──another site: POST, mTLS──▶  ▲                            │
//	                                       └──progress, outcome─────────┘
//
// Managers never dial boxes; boxes dial managers, whichever replica answers. A row is
// in the database before anybody acts by it, and stays until its outcome was told.
//
// # Names of effects
//
// The key of a command is the key of the step with the kind behind it: the same in every
// attempt of the step, whoever makes it. Who asks again, after a crash or a takeover,
// finds the row, and goes on waiting for what is under way, or is told how it ended.
// A failure is told to one attempt; the next has it done again, by a new row, which may
// be another box's. Questions ("running", "agent-up") and the two effects
// that operate's shutter repeats by itself ("shutdown", "cut") have random keys.
//
// # Who may act
//
// The box keeps the newest epoch of each plan it has seen, durably; a handler's Hold
// refuses when a newer one was seen, or the command was cancelled. Commands of one domain
// of one plan are done one after the other, but for those about different VMs; what is
// cancelled has returned before the next begins. A box that dies does again, in its next
// life, what it had: handlers look first.
package command
