// Package timetable says when something is to be done again and again: at 02:30 each
// Saturday, on the first of each month. It is text that people write and a pure
// function of time; who waits is somebody else.
//
//	zone Europe/Berlin; sat 02:30
//	mon-fri 22:00; sun 04:00          UTC, without a zone
//	1 03:00                           the first of each month; 31: the last, where there is none
//	daily 01:15
//
// A time that a clock skips in spring is what the clock shows then, an hour later; one
// it shows twice in autumn is the first.
package timetable
