package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	args, do := os.Args[1:], measure
	if len(args) > 0 {
		switch args[0] {
		case "serve":
			args, do = args[1:], serve
		case "maintain":
			args, do = args[1:], maintainOnce
		case "manage":
			args, do = args[1:], manage
		}
	}
	if err := do(ctx, args); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		stop()
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	out     string
	only    *regexp.Regexp
	rounds  int
	seconds time.Duration
	long    time.Duration
	size    int64
	quick   bool
	guest   string // directory of the test guest that writes
}

func parseOptions(args []string) (options, error) {
	var o options
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.StringVar(&o.out, "out", "build/bench.json", "file of the results; raw rows go beside it")
	only := fs.String("only", "", "measure only figures whose name matches this regular expression")
	fs.IntVar(&o.rounds, "rounds", 5, "rounds; the figures are medians over them")
	seconds := fs.Float64("seconds", 3, "length of one run")
	long := fs.Float64("long", 60, "length of the long runs, in seconds")
	fs.StringVar(&o.guest, "guest", "build/guest", "where make guest has left the guests")
	size := fs.String("size", "4GiB", "size of the disks")
	quick := fs.Bool("quick", false, "one round of one-second runs on small disks: proves that the bench works, measures nothing")
	if err := fs.Parse(args); err != nil {
		return o, err
	}
	if fs.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", fs.Arg(0))
	}
	o.quick = *quick
	if *quick {
		o.rounds, *seconds, *long = 1, 1, 4
		if !given(fs, "size") {
			*size = "512MiB"
		}
	}
	o.seconds = time.Duration(*seconds * float64(time.Second))
	o.long = time.Duration(*long * float64(time.Second))
	var err error
	if o.only, err = regexp.Compile(*only); err != nil {
		return o, fmt.Errorf("-only: %w", err)
	}
	if o.size, err = parseSize(*size); err != nil {
		return o, fmt.Errorf("-size: %w", err)
	}
	switch {
	case o.rounds < 1:
		return o, errors.New("-rounds: at least one")
	case o.seconds < time.Second/2 || o.long < time.Second/2:
		return o, errors.New("-seconds, -long: at least half a second")
	case o.size < 64*mib || o.size%mib != 0:
		return o, errors.New("-size: whole MiB, at least 64")
	}
	return o, nil
}

// given reports whether a flag is on the command line.
func given(fs *flag.FlagSet, name string) (yes bool) {
	fs.Visit(func(f *flag.Flag) { yes = yes || f.Name == name })
	return yes
}

// parseSize reads a size in MiB or GiB.
func parseSize(s string) (int64, error) {
	for suffix, unit := range map[string]int64{"MiB": mib, "GiB": gib} {
		if n, ok := strings.CutSuffix(s, suffix); ok {
			v, err := strconv.ParseInt(n, 10, 32)
			return v * unit, err
		}
	}
	return 0, fmt.Errorf("%q: give a number of MiB or GiB", s)
}

// bench is one run of the program.
type bench struct {
	options
	dir     string // temporary files, on the disk under test
	sockets string
	self    string // this program
	binary  string // holdfast, once it is built
	sp      *spawner
	machine machine

	rows    []row
	figures []figure
	notes   []string
	samples []rpoSample
}

// measure is the program.
func measure(ctx context.Context, args []string) (err error) {
	o, err := parseOptions(args)
	if err != nil {
		return err
	}
	dir, release, err := claimDir(filepath.Join(filepath.Dir(o.out), "bench.tmp"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release()) }()
	sockets, err := os.MkdirTemp("", "holdfast-bench-") // short: a socket's path has at most 107 bytes
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(sockets)) }()
	logs := filepath.Join(dir, "logs")
	if err := os.Mkdir(logs, 0o755); err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, sockets: sockets, sp: newSpawner(logs)}
	if b.self, err = os.Executable(); err != nil {
		return err
	}
	if b.machine, err = b.thisMachine(ctx); err != nil {
		return err
	}
	err = b.all(ctx)
	if err != nil {
		if len(b.figures) == 0 {
			return err
		}
		// What an hour has measured is not thrown away for its last minute.
		b.notes = append(b.notes, fmt.Sprintf("NOT FINISHED: %v", err))
	}
	return errors.Join(err, b.save(), b.table(os.Stdout))
}

// claimDir makes the directory for temporary files, emptied of what a killed
// run left. Two runs at a time would measure each other, so the second is
// refused.
func claimDir(dir string) (string, func() error, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", nil, err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", nil, err
	}
	lock, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", nil, err
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", nil, errors.Join(fmt.Errorf("another bench runs (%s is locked): %w", lock.Name(), err), lock.Close())
	}
	if err := errors.Join(os.RemoveAll(dir), os.Mkdir(dir, 0o755)); err != nil {
		return "", nil, errors.Join(err, lock.Close())
	}
	return dir, func() error {
		return errors.Join(os.RemoveAll(dir), os.Remove(lock.Name()), lock.Close())
	}, nil
}
