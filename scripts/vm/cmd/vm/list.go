package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/phonehost/phonehost/scripts/vm/asset"
	"github.com/phonehost/phonehost/scripts/vm/lab"
)

type listCmd struct{}

// Run prints the assets and the versions that the next build uses. It asks no mirror.
func (*listCmd) Run(r *run) error {
	l, err := lab.Open(r.cfg)
	if err != nil {
		return err
	}
	defer l.Close()
	assets, err := l.Cache().List()
	if err != nil {
		return err
	}
	sets, err := l.Resolutions()
	if err != nil {
		return err
	}
	fmt.Fprintf(r.out, "cache %s\n\n", l.Cache().Dir())
	if err := printAssets(r.out, assets, time.Now()); err != nil {
		return err
	}
	fmt.Fprintln(r.out)
	return printSets(r.out, sets)
}

func printAssets(w io.Writer, assets []asset.Asset, now time.Time) error {
	if len(assets) == 0 {
		_, err := fmt.Fprintln(w, "nothing is built: vm build builds all")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ASSET\tKEY\tSIZE\tUSED")
	for _, a := range assets {
		fmt.Fprintf(t, "%s\t%s\t%s\t%s ago\n", a.Name, a.Key, size(a.Bytes), age(now.Sub(a.Used)))
	}
	return t.Flush()
}

func printSets(w io.Writer, sets []lab.Resolved) error {
	if len(sets) == 0 {
		_, err := fmt.Fprintln(w, "no packages are resolved: the first build, or vm lock, does so")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "PACKAGES OF\tRESOLVED\tPACKAGE\tVERSION\tSHA256")
	for _, s := range sets {
		of, at := s.Set+"/"+s.Arch, s.At.Format(time.DateOnly)
		for _, p := range s.Named {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\n", of, at, p.Name, p.Version, p.SHA256[:16])
		}
		if others := len(s.Packages) - len(s.Named); others > 0 {
			fmt.Fprintf(t, "%s\t%s\tand %d that these need\t\t\n", of, at, others)
		}
	}
	return t.Flush()
}

// age is a duration in its largest unit.
func age(d time.Duration) string {
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%d days", d/(24*time.Hour))
	case d >= 2*time.Hour:
		return fmt.Sprintf("%d hours", d/time.Hour)
	case d >= 2*time.Minute:
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return fmt.Sprintf("%d seconds", d/time.Second)
}

// size is a number of bytes for people.
func size(bytes int64) string {
	if bytes < 10<<20 {
		return fmt.Sprintf("%d KiB", bytes>>10)
	}
	return fmt.Sprintf("%d MiB", bytes>>20)
}
