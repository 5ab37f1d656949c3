package applet

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// run runs a command in the current directory.
func run(t *testing.T, input string, args ...string) (code int, out, messages string) {
	t.Helper()
	var o, e bytes.Buffer
	code, err := Run(t.Context(), Streams{strings.NewReader(input), &o, &e}, args[0], args[1:])
	if err != nil {
		t.Fatal(err)
	}
	return code, o.String(), e.String()
}

// files makes a directory with a few files and makes it the current one.
func files(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	for name, text := range map[string]string{"a.txt": "one\ntwo\nthree\n", "d/b.txt": "Two words\n", ".hidden": ""} {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a.txt", "link"); err != nil {
		t.Fatal(err)
	}
}

func TestPidof(t *testing.T) {
	name := filepath.Base(os.Args[0])
	if code, out, _ := run(t, "", "pidof", "no.such.process", name); code != 0 || !slices.Contains(strings.Fields(out), strconv.Itoa(os.Getpid())) {
		t.Errorf("pidof %s: %d, %q; this is %d", name, code, out, os.Getpid())
	}
	if code, out, messages := run(t, "", "pidof", "no.such.process"); code != 1 || out+messages != "" {
		t.Errorf("pidof of nothing: %d, %q, %q", code, out, messages)
	}
}

func TestOutput(t *testing.T) {
	files(t)
	for _, test := range []struct {
		args  string // separated by blanks
		input string
		code  int
		out   string
	}{
		{"basename /a/b.txt .txt", "", 0, "b\n"},
		{"cat a.txt", "", 0, "one\ntwo\nthree\n"},
		{"cat", "in", 0, "in"},
		{"cat none", "", 1, ""},
		{"cmd", "", 2, ""},
		{"pm list packages", "", 1, ""}, // no system server is here
		{"dirname /a/b", "", 0, "/a\n"},
		{"dd bs=2 count=3 skip=1", "0123456789", 0, "234567"},
		{"dd bs=1k", "01", 0, "01"},
		{"dd bs=x", "", 1, ""},
		{"dd nonsense", "", 2, ""},
		{"du -s none", "", 1, ""},
		{"echo a  b", "", 0, "a b\n"},
		{"echo -n a", "", 0, "a"},
		{"env -i A=1", "", 0, "A=1\n"},
		{"false", "", 1, ""},
		{"flood 200", "", 0, "flood 000000000000 " + strings.Repeat("x", 108) + "\nflood 000000000001 " + strings.Repeat("x", 53)},
		{"flood", "", 2, ""},
		{"grep t a.txt", "", 0, "two\nthree\n"},
		{"grep -n t a.txt", "", 0, "2:two\n3:three\n"},
		{"grep -c t a.txt", "", 0, "2\n"},
		{"grep -vc t a.txt", "", 0, "1\n"},
		{"grep -i two a.txt d/b.txt", "", 0, "a.txt:two\nd/b.txt:Two words\n"},
		{"grep -l two a.txt d/b.txt", "", 0, "a.txt\n"},
		{"grep -q two a.txt", "", 0, ""},
		{"grep -F t.o a.txt", "", 1, ""},
		{"grep none a.txt", "", 1, ""},
		{"grep [ a.txt", "", 2, ""},
		{"head -n 2 a.txt", "", 0, "one\ntwo\n"},
		{"head -n1 a.txt", "", 0, "one\n"},
		{"head -c 5 a.txt", "", 0, "one\nt"},
		{"head -n 0 a.txt", "", 0, ""},
		{"ls", "", 0, "a.txt\nd\nlink\n"},
		{"ls -a", "", 0, ".hidden\na.txt\nd\nlink\n"},
		{"ls d a.txt", "", 0, "a.txt\nd:\nb.txt\n"},
		{"ls -R", "", 0, ".:\na.txt\nd\nlink\n\nd:\nb.txt\n"},
		{"ls -d d", "", 0, "d\n"},
		{"ls none", "", 1, ""},
		{"ls -z", "", 2, ""},
		{"readlink link", "", 0, "a.txt\n"},
		{"rmdir none", "", 1, ""},
		{"seq 3", "", 0, "1\n2\n3\n"},
		{"seq 2 -1 1", "", 0, "2\n1\n"},
		{"seq 1 5 10", "", 0, "1\n6\n"},
		{"seq x", "", 2, ""},
		{"sha256sum a.txt", "", 0, "04eed8d27a0a30c8f2a0e8c6c9ae8c8a"},
		{"sleep 0", "", 0, ""},
		{"sleep x", "", 2, ""},
		{"tail -n 1 a.txt", "", 0, "three\n"},
		{"tee -a new", "text", 0, "text"},
		{"true", "", 0, ""},
		{"wc a.txt", "", 0, "3 3 14 a.txt\n"},
		{"wc -l", "a\nb", 0, "1\n"},
		{"kill", "", 2, ""},
		{"kill -NONE 1", "", 2, ""},
		{"mount -t tmpfs", "", 2, ""},
		{"xargs echo", "a b", 0, "a b\n"},
	} {
		t.Run(test.args, func(t *testing.T) {
			code, out, messages := run(t, test.input, strings.Fields(test.args)...)
			if strings.HasPrefix(test.args, "sha256sum") {
				if fields := strings.Fields(out); len(fields) != 2 || len(fields[0]) != 64 {
					t.Errorf("output %q", out)
				}
				return
			}
			if code != test.code || out != test.out {
				t.Errorf("exit %d, output %q, want %d, %q; messages %q", code, out, test.code, test.out, messages)
			}
			if code > 0 && messages == "" && test.args != "false" && !strings.HasPrefix(test.args, "grep") {
				t.Error("failed without a message")
			}
		})
	}
}

func TestChanges(t *testing.T) {
	files(t)
	for _, args := range []string{
		"mkdir -p x/y", "touch x/f", "cp a.txt x/copy", "mv x/copy x/moved", "chmod 600 x/moved", "ln -s moved x/soft", "ln x/moved x/hard",
		"ln -sf other x/soft", "dd if=a.txt of=x/dd", "rmdir x/y", "rm x/f", "sync",
	} {
		if code, out, messages := run(t, "", strings.Fields(args)...); code != 0 {
			t.Fatalf("%s: exit %d, %q %q", args, code, out, messages)
		}
	}
	if _, out, _ := run(t, "", "ls", "x"); out != "dd\nhard\nmoved\nsoft\n" {
		t.Errorf("left %q", out)
	}
	if _, out, _ := run(t, "", "ls", "-l", "x/hard"); !strings.HasPrefix(out, "-rw------- 2 ") || !strings.HasSuffix(out, " x/hard\n") {
		t.Errorf("long list %q", out)
	}
	if _, out, _ := run(t, "", "stat", "x/hard"); !strings.Contains(out, "(0600/-rw-------)") || !strings.Contains(out, "Size: 14") {
		t.Errorf("stat %q", out)
	}
	if _, out, _ := run(t, "", "find", "x", "-name", "d*"); !strings.Contains(out, "dd") {
		t.Errorf("find %q", out)
	}
	if code, _, _ := run(t, "", "rm", "-r", "x"); code != 0 {
		t.Errorf("rm -r: exit %d", code)
	}
}

func TestSystemCommandsPrintSomething(t *testing.T) {
	for _, args := range []string{"date", "date +%Y-%m-%dT%H:%M:%S.%N", "df /", "free", "hostname", "id", "ip addr", "mount", "nproc", "ps", "uname -a", "uptime", "pwd", "env"} {
		if code, out, messages := run(t, "", strings.Fields(args)...); code != 0 || len(out) < 2 {
			t.Errorf("%s: exit %d, %q %q", args, code, out, messages)
		}
	}
	if _, out, _ := run(t, "", "ps"); !strings.Contains(out, fmt.Sprintf(" %d ", os.Getpid())) {
		t.Errorf("ps does not know pid %d:\n%s", os.Getpid(), out)
	}
	if _, out, _ := run(t, "", "id", "-u"); out != fmt.Sprintln(os.Getuid()) {
		t.Errorf("id -u: %q", out)
	}
}

func TestEnvRuns(t *testing.T) {
	if code, _, messages := run(t, "", "env", "A=5", "sh", "-c", "exit $A"); code != 5 {
		t.Errorf("exit %d, %s", code, messages)
	}
}

func TestWithoutPropertyService(t *testing.T) {
	for _, args := range []string{"getprop", "getprop a", "setprop a b", "start x", "stop x", "reboot", "log x"} {
		if code, _, messages := run(t, "", strings.Fields(args)...); code != 1 || messages == "" {
			t.Errorf("%s: exit %d, %q", args, code, messages)
		}
	}
	for _, args := range []string{"getprop a b c", "setprop a", "start", "log -p xx y"} {
		if code, _, _ := run(t, "", strings.Fields(args)...); code != 2 {
			t.Errorf("%s: exit %d", args, code)
		}
	}
}

func TestUnknownCommand(t *testing.T) {
	if _, err := Run(t.Context(), Streams{}, "none", nil); !errdefs.IsNotFound(err) {
		t.Errorf("error %v", err)
	}
}

func TestParseSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "7": 7, "2k": 2048, "2KiB": 2048, "1MiB": 1 << 20, "1M": 1 << 20, "3GiB": 3 << 30} {
		if got, err := parseSize(text); got != want || err != nil {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "x", "-1", "1T", "1kk"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%q: %d", text, got)
		}
	}
}

func TestPermissions(t *testing.T) {
	for mode, want := range map[uint32]string{0o100644: "-rw-r--r--", 0o41777: "drwxrwxrwt", 0o104755: "-rwsr-xr-x", 0o102644: "-rw-r-Sr--", 0o120777: "lrwxrwxrwx"} {
		if got := permissions(mode); got != want {
			t.Errorf("%o: %s, want %s", mode, got, want)
		}
	}
}
