// Package guest does things in a guest by QEMU's guest agent: find out whether it answers,
// run a program there, read its addresses, see what listens.
//
// A program is started, and asked for until it has ended: the agent forgets it when it has
// told that, and nothing of it stays. What guests say is bounded and believed by nobody.
package guest
