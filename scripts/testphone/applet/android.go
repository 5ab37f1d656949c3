package applet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/phonehost/phonehost/scripts/testphone/logd"
	"github.com/phonehost/phonehost/scripts/testphone/property"
	"golang.org/x/sys/unix"
)

func getprop(ctx context.Context, s Streams, args []string) error {
	c := property.NewClient("")
	if len(args) > 2 {
		return usage("getprop [NAME [DEFAULT]]")
	}
	if len(args) == 0 {
		list, err := c.List(ctx)
		for _, p := range list {
			fmt.Fprintf(s.Out, "[%s]: [%s]\n", p.Name, p.Value)
		}
		return err
	}
	value, err := c.Get(ctx, args[0])
	if err != nil {
		return err
	}
	if value == "" && len(args) == 2 {
		value = args[1]
	}
	fmt.Fprintln(s.Out, value)
	return nil
}

func setprop(ctx context.Context, _ Streams, args []string) error {
	if len(args) != 2 {
		return usage("setprop NAME VALUE")
	}
	return property.NewClient("").Set(ctx, args[0], args[1])
}

func start(ctx context.Context, _ Streams, args []string) error {
	return orderService(ctx, "start", args)
}

func stop(ctx context.Context, _ Streams, args []string) error {
	return orderService(ctx, "stop", args)
}

func orderService(ctx context.Context, action string, args []string) error {
	if len(args) != 1 {
		return usage(action + " SERVICE")
	}
	return property.NewClient("").Set(ctx, "ctl."+action, args[0])
}

// reboot asks init to end the phone and, as Android's, does not return before that happens.
func reboot(ctx context.Context, _ Streams, args []string) error {
	var off bool
	args, err := options(args, "reboot [-p] [TARGET]", func(f *flag.FlagSet) { f.BoolVar(&off, "p", false, "") })
	if err != nil {
		return err
	}
	value := "reboot"
	if off {
		value = "shutdown"
	}
	if len(args) > 0 {
		value += "," + strings.Join(args, " ")
	}
	if err := property.NewClient("").Set(ctx, "sys.powerctl", value); err != nil {
		return err
	}
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer cancel()
	<-ctx.Done()
	return ctx.Err()
}

func logMessage(_ context.Context, _ Streams, args []string) error {
	tag, priority := "log", "i"
	args, err := options(args, "log [-p VDIWEF] [-t TAG] MESSAGE...", func(f *flag.FlagSet) {
		f.StringVar(&tag, "t", tag, "")
		f.StringVar(&priority, "p", priority, "")
	})
	if err != nil {
		return err
	}
	if len(priority) != 1 {
		return usage("log [-p VDIWEF] [-t TAG] MESSAGE...")
	}
	return logd.Send("", logd.Record{
		Thread: uint16(os.Getpid()), Time: time.Now(), Priority: strings.ToUpper(priority)[0], Tag: tag, Message: strings.Join(args, " "),
	})
}

// floodLine is the length in bytes of one line that flood prints.
const floodLine = 128

// flood prints so many bytes of numbered lines, "flood NUMBER xxx...", as fast as its output takes them. Only the last line may be shorter.
// The file, if one is named, is there when all is printed.
func flood(ctx context.Context, s Streams, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return usage("flood SIZE [FILE]")
	}
	size, err := parseSize(args[0])
	if err != nil {
		return err
	}
	if len(args) == 2 {
		if err := os.Remove(args[1]); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := printFlood(ctx, s.Out, size); err != nil || len(args) == 1 {
		return err
	}
	return os.WriteFile(args[1], []byte(args[0]+"\n"), 0o644)
}

func printFlood(ctx context.Context, out io.Writer, left int64) error {
	const batch = 512
	var number int64
	buf := make([]byte, 0, batch*floodLine)
	for left > 0 {
		buf = buf[:0]
		for range batch {
			buf = fmt.Appendf(buf, "flood %012d ", number)
			number++
			for len(buf)%floodLine != floodLine-1 {
				buf = append(buf, 'x')
			}
			buf = append(buf, '\n')
		}
		n := min(left, int64(len(buf)))
		if _, err := out.Write(buf[:n]); err != nil {
			return err
		}
		left -= n
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}
