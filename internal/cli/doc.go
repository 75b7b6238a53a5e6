// Package cli is the door: one file per subcommand of the holdfast binary. It
// is the only package that picks drivers (which store a URL means, which
// hypervisor boots a VM), reads configuration files, and talks to a person.
//
// Conventions of every command: results on stdout, everything else on stderr;
// -o json wherever a list or a report is printed; an error says what failed on
// what, and a second line says what to do; the exit code tells the kind of
// failure; Ctrl-C ends cleanly with code 130.
package cli
