// Command wan is the only program of a guest that stands for a wide area
// network: it joins its two network cards by a bridge and delays, loses and
// holds back what passes, in both directions, as its serial line says. Test
// machines need no kernel support for that; the guest's kernel has it.
//
// Lines it takes, and answers by "OK" or "ERR words":
//
//	netem ARGUMENTS   as of tc-netem(8): "delay 20ms loss 1% rate 50mbit"; each
//	                  direction gets them, so that the way there and back takes
//	                  twice the delay
//	clear             as if there was a wire
package main
