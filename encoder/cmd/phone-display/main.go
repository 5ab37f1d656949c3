// Command phone-display is the screen of one phone: a Wayland server for its guest and an H.264 encoder for its agent.
//
//	phone-display --wayland-dir DIR --control-dir DIR --width W --height H --fps N [--dpi N] [--globals NAME,...]
//	phone-display encoders     probe every encoder with a real frame
//	phone-display libraries    print the sonames that are loaded at run time, one per line
//	phone-display version
//
// It runs until SIGTERM or SIGINT. Logs go to standard error. It keeps nothing on disk but its two sockets, and needs no
// privilege.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/phonehost/phonehost/encoder/avcodec"
)

// version is set by the linker.
var version = "dev"

const usage = `usage:
  phone-display --wayland-dir DIR --control-dir DIR --width W --height H --fps N [--dpi N] [--globals NAME,...]
  phone-display encoders | libraries | version
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run is the program; it returns the exit code: 0 done, 1 refused or failed, 2 usage.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	if len(args) == 1 {
		switch args[0] {
		case "version":
			fmt.Fprintln(stdout, version)
			return 0
		case "libraries":
			fmt.Fprintln(stdout, strings.Join(avcodec.Libraries(), "\n"))
			return 0
		case "encoders":
			return encoders(stdout)
		}
	}
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stdout, usage)
		return 0
	}
	if err != nil {
		fmt.Fprintf(stderr, "phone-display: %v\n%s", err, usage)
		return 2
	}
	log := slog.New(slog.NewTextHandler(stderr, nil))
	if err := serve(ctx, o, log); err != nil {
		log.Error("display ends", "error", err)
		return 1
	}
	return 0
}

// encoders probes every encoder and prints what it found: a line each, and success if one works.
func encoders(stdout io.Writer) int {
	code := 1
	for _, name := range avcodec.Codecs() {
		if err := avcodec.Probe(name); err != nil {
			fmt.Fprintf(stdout, "%s\tunavailable\t%v\n", name, err)
			continue
		}
		code = 0
		v, _ := avcodec.Version() // Probe loaded it
		fmt.Fprintf(stdout, "%s\tok\tlibavcodec %s\n", name, v)
	}
	return code
}

// options are the command line of a display that serves.
type options struct {
	waylandDir, controlDir  string
	width, height, fps, dpi int
	globals                 []string
}

// parse reads the command line. Ranges are checked by the packages that the values are for.
func parse(args []string) (options, error) {
	var o options
	var globals string
	f := flag.NewFlagSet("phone-display", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.waylandDir, "wayland-dir", "", "")
	f.StringVar(&o.controlDir, "control-dir", "", "")
	f.StringVar(&globals, "globals", "", "")
	f.IntVar(&o.width, "width", 0, "")
	f.IntVar(&o.height, "height", 0, "")
	f.IntVar(&o.fps, "fps", 0, "")
	f.IntVar(&o.dpi, "dpi", 0, "")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unknown command %q", f.Arg(0))
	}
	if o.waylandDir == "" || o.controlDir == "" || o.width == 0 || o.height == 0 || o.fps == 0 {
		return o, fmt.Errorf("--wayland-dir, --control-dir, --width, --height and --fps are required")
	}
	for _, name := range strings.Split(globals, ",") {
		if name = strings.TrimSpace(name); name != "" {
			o.globals = append(o.globals, name)
		}
	}
	return o, nil
}
