package applet

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func date(_ context.Context, s Streams, args []string) error {
	var utc bool
	args, err := options(args, "date [-u] [+FORMAT]", func(f *flag.FlagSet) { f.BoolVar(&utc, "u", false, "") })
	if err != nil {
		return err
	}
	now := time.Now()
	if utc {
		now = now.UTC()
	}
	if len(args) == 0 {
		fmt.Fprintln(s.Out, now.Format(time.UnixDate))
		return nil
	}
	text, ok := strings.CutPrefix(args[0], "+")
	if !ok {
		return usage("date [-u] [+FORMAT]")
	}
	r := strings.NewReplacer("%%", "%", "%Y", now.Format("2006"), "%m", now.Format("01"), "%d", now.Format("02"), "%H", now.Format("15"),
		"%M", now.Format("04"), "%S", now.Format("05"), "%N", fmt.Sprintf("%09d", now.Nanosecond()), "%s", fmt.Sprint(now.Unix()),
		"%F", now.Format(time.DateOnly), "%T", now.Format(time.TimeOnly), "%Z", now.Format("MST"))
	fmt.Fprintln(s.Out, r.Replace(text))
	return nil
}

// free prints the memory that the phone sees.
func free(_ context.Context, s Streams, _ []string) error {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return err
	}
	defer f.Close()
	scan := bufio.NewScanner(f)
	for scan.Scan() {
		switch name, _, _ := strings.Cut(scan.Text(), ":"); name {
		case "MemTotal", "MemFree", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree":
			fmt.Fprintln(s.Out, scan.Text())
		}
	}
	return scan.Err()
}

func hostname(_ context.Context, s Streams, _ []string) error {
	name, err := os.Hostname()
	if err == nil {
		fmt.Fprintln(s.Out, name)
	}
	return err
}

// ip prints the interfaces and their addresses.
func ip(_ context.Context, s Streams, args []string) error {
	if len(args) > 0 && !strings.HasPrefix("address", args[0]) {
		return usage("ip [addr]")
	}
	list, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range list {
		fmt.Fprintf(s.Out, "%d: %s: <%s> mtu %d\n", i.Index, i.Name, strings.ToUpper(strings.ReplaceAll(i.Flags.String(), "|", ",")), i.MTU)
		if len(i.HardwareAddr) > 0 {
			fmt.Fprintf(s.Out, "    link/ether %s\n", i.HardwareAddr)
		}
		addrs, err := i.Addrs()
		if err != nil {
			return fmt.Errorf("%s: %w", i.Name, err)
		}
		for _, a := range addrs {
			family := "inet"
			if strings.Contains(a.String(), ":") {
				family = "inet6"
			}
			fmt.Fprintf(s.Out, "    %s %s\n", family, a)
		}
	}
	return nil
}

func uname(_ context.Context, s Streams, args []string) error {
	var all, kernel, node, release, version, machine bool
	if _, err := options(args, "uname [-asnrvm]", func(f *flag.FlagSet) {
		for name, v := range map[string]*bool{"a": &all, "s": &kernel, "n": &node, "r": &release, "v": &version, "m": &machine} {
			f.BoolVar(v, name, false, "")
		}
	}); err != nil {
		return err
	}
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	kernel = kernel || !node && !release && !version && !machine
	var words []string
	for _, f := range []struct {
		show bool
		text []byte
	}{{kernel, u.Sysname[:]}, {node, u.Nodename[:]}, {release, u.Release[:]}, {version, u.Version[:]}, {machine, u.Machine[:]}} {
		if all || f.show {
			words = append(words, unix.ByteSliceToString(f.text))
		}
	}
	fmt.Fprintln(s.Out, strings.Join(words, " "))
	return nil
}

func uptime(_ context.Context, s Streams, _ []string) error {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return err
	}
	const scale = 1 << 16
	fmt.Fprintf(s.Out, "up %v, load %.2f %.2f %.2f\n", time.Duration(info.Uptime)*time.Second,
		float64(info.Loads[0])/scale, float64(info.Loads[1])/scale, float64(info.Loads[2])/scale)
	return nil
}
