// Command holdfast is the whole of Holdfast in one binary: the host component,
// the DR virtual appliance, the recovery appliance, and the tools that need
// nothing but a container and a key. Run it without arguments for help.
package main

import (
	"os"

	"holdfast/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:])) }
