package applet

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
)

// eachFile calls f with every named file, or with the input when none is named or the name is "-".
func eachFile(s Streams, names []string, f func(name string, r io.Reader) error) error {
	if len(names) == 0 {
		names = []string{"-"}
	}
	for _, name := range names {
		if name == "-" {
			if err := f("(standard input)", s.In); err != nil {
				return err
			}
			continue
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		err = f(name, file)
		file.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// lines calls f with every line, its newline included if it has one, until f returns false.
func lines(ctx context.Context, r io.Reader, f func(line []byte) bool) error {
	br := bufio.NewReader(r)
	for {
		line, err := br.ReadBytes('\n')
		if len(line) > 0 && !f(line) {
			return nil
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

func echo(_ context.Context, s Streams, args []string) error {
	end := "\n"
	if len(args) > 0 && args[0] == "-n" {
		args, end = args[1:], ""
	}
	_, err := io.WriteString(s.Out, strings.Join(args, " ")+end)
	return err
}

func grep(ctx context.Context, s Streams, args []string) error {
	var fold, invert, count, number, quiet, fixed, onlyNames, extended bool
	const how = "grep [-cilnqvEF] PATTERN [FILE...]"
	args, err := options(args, how, func(f *flag.FlagSet) {
		for name, v := range map[string]*bool{"i": &fold, "v": &invert, "c": &count, "n": &number, "q": &quiet, "F": &fixed, "l": &onlyNames, "E": &extended} {
			f.BoolVar(v, name, false, "")
		}
	})
	if err != nil {
		return err
	}
	if len(args) == 0 {
		return usage(how)
	}
	pattern := args[0]
	if fixed {
		pattern = regexp.QuoteMeta(pattern)
	}
	if fold {
		pattern = "(?i)" + pattern
	}
	re, err := regexp.Compile(pattern)
	if err != nil {
		return usage(err.Error())
	}
	found := false
	err = eachFile(s, args[1:], func(name string, r io.Reader) error {
		prefix, matches, n := "", 0, 0
		if len(args) > 2 {
			prefix = name + ":"
		}
		err := lines(ctx, r, func(line []byte) bool {
			n++
			if re.Match(bytes.TrimSuffix(line, []byte("\n"))) == invert {
				return true
			}
			found = true
			matches++
			switch {
			case quiet || onlyNames:
				return false
			case count:
			case number:
				fmt.Fprintf(s.Out, "%s%d:%s\n", prefix, n, bytes.TrimSuffix(line, []byte("\n")))
			default:
				fmt.Fprintf(s.Out, "%s%s\n", prefix, bytes.TrimSuffix(line, []byte("\n")))
			}
			return true
		})
		if count {
			fmt.Fprintf(s.Out, "%s%d\n", prefix, matches)
		}
		if onlyNames && matches > 0 {
			fmt.Fprintln(s.Out, name)
		}
		return err
	})
	if err == nil && !found {
		return status(1)
	}
	return err
}

func head(ctx context.Context, s Streams, args []string) error {
	n, c := int64(10), int64(-1)
	args, err := options(args, "head [-n LINES | -c BYTES] [FILE...]", func(f *flag.FlagSet) {
		f.Int64Var(&n, "n", 10, "")
		f.Int64Var(&c, "c", -1, "")
	})
	if err != nil {
		return err
	}
	return eachFile(s, args, func(_ string, r io.Reader) error {
		if c >= 0 {
			_, err := io.CopyN(s.Out, r, c)
			if err == io.EOF {
				err = nil
			}
			return err
		}
		left := n
		if left == 0 {
			return nil
		}
		return lines(ctx, r, func(line []byte) bool {
			s.Out.Write(line)
			left--
			return left > 0
		})
	})
}

func tail(ctx context.Context, s Streams, args []string) error {
	n := 10
	args, err := options(args, "tail [-n LINES] [FILE...]", func(f *flag.FlagSet) { f.IntVar(&n, "n", 10, "") })
	if err != nil {
		return err
	}
	return eachFile(s, args, func(_ string, r io.Reader) error {
		var last [][]byte
		err := lines(ctx, r, func(line []byte) bool {
			last = append(last, line)
			if len(last) > n {
				last = last[1:]
			}
			return true
		})
		s.Out.Write(bytes.Join(last, nil))
		return err
	})
}

func tee(_ context.Context, s Streams, args []string) error {
	var add bool
	args, err := options(args, "tee [-a] [FILE...]", func(f *flag.FlagSet) { f.BoolVar(&add, "a", false, "") })
	if err != nil {
		return err
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if add {
		mode = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	out := []io.Writer{s.Out}
	for _, name := range args {
		f, err := os.OpenFile(name, mode, 0o666)
		if err != nil {
			return err
		}
		defer f.Close()
		out = append(out, f)
	}
	_, err = io.Copy(io.MultiWriter(out...), s.In)
	return err
}

func wc(ctx context.Context, s Streams, args []string) error {
	var onlyLines, onlyWords, onlyBytes bool
	args, err := options(args, "wc [-clw] [FILE...]", func(f *flag.FlagSet) {
		f.BoolVar(&onlyLines, "l", false, "")
		f.BoolVar(&onlyWords, "w", false, "")
		f.BoolVar(&onlyBytes, "c", false, "")
	})
	if err != nil {
		return err
	}
	all := !onlyLines && !onlyWords && !onlyBytes
	return eachFile(s, args, func(name string, r io.Reader) error {
		var nl, words, size int64
		err := lines(ctx, r, func(line []byte) bool {
			if line[len(line)-1] == '\n' {
				nl++
			}
			words += int64(len(bytes.Fields(line)))
			size += int64(len(line))
			return true
		})
		var columns []string
		for _, c := range []struct {
			show bool
			n    int64
		}{{all || onlyLines, nl}, {all || onlyWords, words}, {all || onlyBytes, size}} {
			if c.show {
				columns = append(columns, strconv.FormatInt(c.n, 10))
			}
		}
		if len(args) > 0 {
			columns = append(columns, name)
		}
		fmt.Fprintln(s.Out, strings.Join(columns, " "))
		return err
	})
}

func seq(ctx context.Context, s Streams, args []string) error {
	var n []int64
	for _, arg := range args {
		v, err := strconv.ParseInt(arg, 10, 64)
		if err != nil {
			return usage("seq [FIRST [STEP]] LAST")
		}
		n = append(n, v)
	}
	first, step := int64(1), int64(1)
	switch len(n) {
	case 1:
	case 2:
		first = n[0]
	case 3:
		first, step = n[0], n[1]
	default:
		return usage("seq [FIRST [STEP]] LAST")
	}
	if step == 0 {
		return usage("seq: STEP is not 0")
	}
	out := bufio.NewWriter(s.Out)
	defer out.Flush()
	for i, last := first, n[len(n)-1]; (step > 0 && i <= last || step < 0 && i >= last) && ctx.Err() == nil; i += step {
		if _, err := fmt.Fprintln(out, i); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func yes(ctx context.Context, s Streams, args []string) error {
	text := "y"
	if len(args) > 0 {
		text = strings.Join(args, " ")
	}
	out := bufio.NewWriterSize(s.Out, 64<<10)
	for ctx.Err() == nil {
		if _, err := out.WriteString(text + "\n"); err != nil {
			return err
		}
	}
	return ctx.Err()
}
