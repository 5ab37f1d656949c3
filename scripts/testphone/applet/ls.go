package applet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"golang.org/x/sys/unix"
)

// lister is one call of ls.
type lister struct {
	out                           io.Writer
	all, long, directory, recurse bool
}

// ls lists files and directories, one name a line. It is not u-root's, which prints a file's base name and not the name it was asked for,
// and does not tell a missing file by its exit status.
func ls(_ context.Context, s Streams, args []string) error {
	l := lister{out: s.Out}
	args, err := options(args, "ls [-1aAdlR] [PATH...]", func(f *flag.FlagSet) {
		f.Bool("1", false, "")
		f.BoolVar(&l.all, "a", false, "")
		f.BoolVar(&l.all, "A", false, "")
		f.BoolVar(&l.long, "l", false, "")
		f.BoolVar(&l.directory, "d", false, "")
		f.BoolVar(&l.recurse, "R", false, "")
	})
	if err != nil {
		return err
	}
	if len(args) == 0 {
		args = []string{"."}
	}
	var errs []error
	var files, dirs []string
	for _, path := range args {
		info, err := os.Lstat(path)
		if err == nil && !l.long && info.Mode()&os.ModeSymlink != 0 {
			if target, statErr := os.Stat(path); statErr == nil {
				info = target
			}
		}
		switch {
		case err != nil:
			errs = append(errs, err)
		case info.IsDir() && !l.directory:
			dirs = append(dirs, path)
		default:
			files = append(files, path)
		}
	}
	errs = append(errs, l.print("", files))
	for _, dir := range dirs {
		errs = append(errs, l.list(dir, len(args) > 1 || l.recurse))
	}
	return errors.Join(errs...)
}

// list prints what is in a directory, after its name where there are several.
func (l lister) list(dir string, title bool) error {
	if title {
		fmt.Fprintf(l.out, "%s:\n", dir)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var names, below []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && !l.all {
			continue
		}
		names = append(names, e.Name())
		if e.IsDir() && l.recurse {
			below = append(below, filepath.Join(dir, e.Name()))
		}
	}
	errs := []error{l.print(dir, names)}
	for _, sub := range below {
		fmt.Fprintln(l.out)
		errs = append(errs, l.list(sub, true))
	}
	return errors.Join(errs...)
}

// print prints names that are relative to dir.
func (l lister) print(dir string, names []string) error {
	w := tabwriter.NewWriter(l.out, 0, 0, 1, ' ', 0)
	defer w.Flush()
	var errs []error
	for _, name := range names {
		if !l.long {
			fmt.Fprintln(w, name)
			continue
		}
		path := filepath.Join(dir, name)
		info, err := os.Lstat(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if info.Mode()&os.ModeSymlink != 0 {
			if target, err := os.Readlink(path); err == nil {
				name += " -> " + target
			}
		}
		st := info.Sys().(*syscall.Stat_t)
		size := fmt.Sprint(st.Size)
		if info.Mode()&os.ModeDevice != 0 {
			size = fmt.Sprintf("%d,%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", permissions(st.Mode), st.Nlink, ownerName(int(st.Uid)), ownerName(int(st.Gid)), size,
			info.ModTime().Format("2006-01-02 15:04"), name)
	}
	return errors.Join(errs...)
}

// permissions writes a mode as every ls does.
func permissions(mode uint32) string {
	kinds := map[uint32]byte{
		unix.S_IFDIR: 'd', unix.S_IFLNK: 'l', unix.S_IFCHR: 'c', unix.S_IFBLK: 'b', unix.S_IFIFO: 'p', unix.S_IFSOCK: 's', unix.S_IFREG: '-',
	}
	text := []byte{kinds[mode&unix.S_IFMT]}
	for i, c := range []byte("rwxrwxrwx") {
		if mode&(1<<(8-i)) == 0 {
			c = '-'
		}
		text = append(text, c)
	}
	for _, special := range []struct {
		bit  uint32
		at   int
		with byte
	}{{unix.S_ISUID, 3, 's'}, {unix.S_ISGID, 6, 's'}, {unix.S_ISVTX, 9, 't'}} {
		if mode&special.bit == 0 {
			continue
		}
		if text[special.at] == '-' {
			special.with -= 'a' - 'A'
		}
		text[special.at] = special.with
	}
	return string(text)
}
