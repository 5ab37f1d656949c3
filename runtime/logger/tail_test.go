package logger

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestTail(t *testing.T) {
	old, now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), time.Date(2026, 1, 2, 4, 0, 0, 0, time.UTC)
	lines := func(at time.Time, texts ...string) string {
		var b []byte
		for _, text := range texts {
			b = appendLine(b, at, Stdout, false, []byte(text))
		}
		return string(b)
	}
	for _, tt := range []struct {
		name           string
		older, current string
		o              TailOptions
		want           string
	}{
		{"no log", "", "", TailOptions{Bytes: 10}, ""},
		{"all fits", "", lines(now, "a", "b"), TailOptions{Bytes: 3}, "a\nb"},
		{"the last that fits", "", lines(now, "a", "b", "c"), TailOptions{Bytes: 4}, "b\nc"},
		{"over the rotation", lines(now, "a", "b"), lines(now, "c"), TailOptions{Bytes: 3}, "b\nc"},
		{"an empty line stays", "", lines(now, "a", "", "b"), TailOptions{Bytes: 10}, "a\n\nb"},
		{"since", lines(old, "a"), lines(old, "b") + lines(now, "c", "d"), TailOptions{Bytes: 100, Since: now}, "c\nd"},
		{"nothing since", "", lines(old, "b"), TailOptions{Bytes: 100, Since: now}, ""},
		{"a line too long", "", lines(now, "a", "0123456789"), TailOptions{Bytes: 4}, "6789"},
		{"cut at a character", "", lines(now, "aäää"), TailOptions{Bytes: 5}, "ää"},
		{"not UTF-8", "", lines(now, "a\xff\xfeb"), TailOptions{Bytes: 10}, "a\uFFFDb"},
		{"half a line", "", lines(now, "a") + "2026", TailOptions{Bytes: 10}, "a\n2026"},
		{"the longest line there is", "", lines(now, "a", strings.Repeat("x", MaxText)), TailOptions{Bytes: MaxText}, strings.Repeat("x", MaxText)},
		{"the file is longer than what is read", "", lines(now, strings.Repeat("y", MaxText), strings.Repeat("y", MaxText), "a"), TailOptions{Bytes: 10}, "a"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "guest.log")
			for name, text := range map[string]string{path: tt.current, path + ".1": tt.older} {
				if text == "" {
					continue
				}
				if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Tail(t.Context(), path, tt.o)
			if err != nil || got != tt.want {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}

// TestTailWaitsForTheLastLine asks for the tail while a writer is still at it: the tail has what came before the log fell silent.
func TestTailWaitsForTheLastLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guest.log")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	done := make(chan error, 1)
	go func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for i := range 20 {
			<-tick.C
			text := "going on"
			if i == 19 {
				text = "the last"
			}
			if _, err := f.Write(appendLine(nil, time.Now(), Stdout, false, []byte(text))); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	got, err := Tail(t.Context(), path, TailOptions{Bytes: 100, Quiet: 200 * time.Millisecond})
	if err != nil || !strings.HasSuffix(got, "the last") {
		t.Errorf("got %q, %v", got, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := Tail(t.Context(), filepath.Join(t.TempDir(), "none", "guest.log"), TailOptions{Bytes: 1, Quiet: time.Millisecond}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("in a directory that does not exist: %v", err)
	}
}

// FuzzTail has any bytes as a log: the tail is short and valid UTF-8.
func FuzzTail(f *testing.F) {
	f.Add([]byte("2026-01-02T03:04:05.000000000Z stdout F a\xff\n\n"), 3)
	f.Fuzz(func(t *testing.T, data []byte, limit int) {
		if limit < 1 || limit > 1<<16 {
			return
		}
		path := filepath.Join(t.TempDir(), "guest.log")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := Tail(t.Context(), path, TailOptions{Bytes: limit})
		if err != nil || len(got) > limit || !utf8.ValidString(got) {
			t.Errorf("%d bytes of %d: %q, %v", len(got), limit, got, err)
		}
	})
}
