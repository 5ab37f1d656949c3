package codepages

import (
	"bufio"
	"os"
	"strconv"
	"strings"
	"testing"
)

// TestForget finds less of the program's code in memory, and the program still running.
func TestForget(t *testing.T) {
	_ = strings.Repeat(strconv.Quote("touched"), 10)
	before := code(t)
	Forget()
	if after := code(t); after >= before {
		t.Errorf("%d KiB of code before, %d after", before, after)
	}
}

// code is how much of the program's file is mapped in KiB.
func code(t *testing.T) (kib int) {
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ours := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		line := lines.Text()
		if field := strings.Fields(line); len(field) >= 5 && strings.Contains(field[0], "-") {
			ours = strings.HasSuffix(line, program)
		} else if ours && field[0] == "Rss:" {
			n, err := strconv.Atoi(field[1])
			if err != nil {
				t.Fatal(err)
			}
			kib += n
		}
	}
	return kib
}
