package control

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/containerd/errdefs"
)

// bytesOnly is a connection that brings bytes, and takes others.
type bytesOnly struct {
	io.Reader
	io.Writer
}

func (bytesOnly) Close() error { return nil }

// heard returns a wire to which data comes.
func heard(t testing.TB, data []byte) *wire {
	w := newWire(bytesOnly{bytes.NewReader(data), io.Discard})
	t.Cleanup(func() { w.Close() })
	return w
}

// record is a record with that payload.
func record(payload string) string {
	return string(binary.BigEndian.AppendUint32(nil, uint32(len(payload)))) + payload
}

func TestRecords(t *testing.T) {
	for name, test := range map[string]struct {
		bytes, want string
		err         error // nil is one that says that the other side began anew
	}{
		"nothing":                      {"", "", io.EOF},
		"lines alone":                  {"\n" + started + "X\n\n", "", io.EOF},
		"records":                      {record("one") + record("two"), "onetwo", io.EOF},
		"behind lines":                 {"\n" + started + "X\n" + record("one"), "one", io.EOF},
		"the longest":                  {record(strings.Repeat("x", maxRecord)), strings.Repeat("x", maxRecord), io.EOF},
		"an end in a header":           {record("one") + "\x00\x00", "one", io.ErrUnexpectedEOF},
		"an end behind a header":       {record("one") + "\x00\x00\x00\x01", "one", io.ErrUnexpectedEOF},
		"an end in a payload":          {record("one") + record("two")[:5], "one", io.ErrUnexpectedEOF},
		"half of one is not delivered": {record("two")[:6], "", io.ErrUnexpectedEOF},
		"a line behind a record":       {record("one") + "\n" + hello + "X\n", "one", nil},
		"an empty one":                 {record("one") + record(""), "one", nil},
		"one too long":                 {record("one") + record(strings.Repeat("x", maxRecord+1)), "one", nil},
	} {
		t.Run(name, func(t *testing.T) {
			for pace, slow := range map[string]func(io.Reader) io.Reader{"at once": func(r io.Reader) io.Reader { return r }, "byte by byte": iotest.OneByteReader} {
				w := newWire(bytesOnly{slow(strings.NewReader(test.bytes)), io.Discard})
				defer w.Close()
				var got bytes.Buffer
				_, err := io.Copy(&got, struct{ io.Reader }{w})
				if got.String() != test.want {
					t.Errorf("%s: got %q, want %q", pace, &got, test.want)
				}
				if want := test.err; want == io.EOF && err != nil || want == io.ErrUnexpectedEOF && !errors.Is(err, want) ||
					want == nil && (err == nil || !strings.Contains(err.Error(), "began anew")) {
					t.Errorf("%s: error %v, want %v", pace, err, want)
				}
			}
		})
	}
}

// TestFramesAreRecords shows that a frame of yamux's, which yamux writes in two pieces, is one record.
func TestFramesAreRecords(t *testing.T) {
	data := func(n int) string {
		return string(binary.BigEndian.AppendUint32([]byte{0, 0, 0, 1, 0, 0, 0, 7}, uint32(n)))
	}
	update := "\x00\x01\x00\x01\x00\x00\x00\x07\x00\x00\x00\x01"
	long := strings.Repeat("x", 3*maxRecord)
	for name, test := range map[string]struct{ writes, want []string }{
		"a window update":               {[]string{update}, []string{update}},
		"data":                          {[]string{data(5), "hello"}, []string{data(5) + "hello"}},
		"data that looks like a header": {[]string{data(12), data(1), update}, []string{data(12) + data(1), update}},
		"no data":                       {[]string{data(0), update}, []string{data(0), update}},
		"the longest of a guest":        {[]string{data(chunk + headerSize), long[:chunk+headerSize]}, []string{data(chunk+headerSize) + long[:chunk+headerSize]}},
		"long data":                     {[]string{data(len(long)), long}, []string{data(len(long)) + long[:maxRecord-12], long[:maxRecord], long[:maxRecord], long[:12]}},
	} {
		t.Run(name, func(t *testing.T) {
			one, other := pipe()
			w := newWire(one)
			for _, piece := range test.writes {
				if n, err := io.WriteString(w, piece); n != len(piece) || err != nil {
					t.Fatalf("write %d bytes: %d, %v", len(piece), n, err)
				}
			}
			want := ""
			for _, payload := range test.want {
				want += record(payload)
			}
			got := make([]byte, len(want))
			if _, err := io.ReadFull(other, got); err != nil || string(got) != want {
				t.Errorf("got %d bytes %.50q, %v, want %d bytes %.50q", len(got), got, err, len(want), want)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			if rest, _ := io.ReadAll(other); len(rest) > 0 {
				t.Errorf("more was written: %q", rest)
			}
			if _, err := io.WriteString(w, update); err == nil {
				t.Error("a closed wire takes more")
			}
		})
	}
}

// FuzzLine has any bytes come before a line: it is found, and nothing is taken for a line of ours that is none.
func FuzzLine(f *testing.F) {
	for _, seed := range []string{
		"", "\n", "\x00", "login: ", "\n" + protocol, protocol + "\n" + protocol, "\n" + hello + "A\n" + start + "A", record("x"),
		strings.Repeat("\n", 70), strings.Repeat("x", maxLine), strings.Repeat("x", maxLine-1) + "\n", strings.Repeat(protocol, maxLine/len(protocol)+1),
	} {
		f.Add([]byte(seed))
	}
	const last = started + "the last one"
	f.Fuzz(func(t *testing.T, rubbish []byte) {
		w := heard(t, append(rubbish[:len(rubbish):len(rubbish)], "\n"+last+"\nbehind"...))
		for found := false; ; {
			line, isRecord, err := w.line(false)
			if isRecord {
				t.Fatal("a record was found and not asked for")
			}
			if err == io.EOF {
				if !found {
					t.Error("the last line was not found")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !strings.HasPrefix(line, protocol) || len(line) >= maxLine || strings.Contains(line, "\n") {
				t.Errorf("line %q", line)
			}
			found = line == last
		}
	})
}

// carried is what the records of data carry, which lie behind lines.
func carried(data []byte) []byte {
	for len(data) > 0 && data[0] != 0 {
		_, data, _ = bytes.Cut(data, []byte("\n"))
	}
	all := []byte{}
	for len(data) >= recordHeader {
		size := int(binary.BigEndian.Uint32(data))
		data = data[recordHeader:]
		if size == 0 || size > maxRecord || size > len(data) {
			break
		}
		all = append(all, data[:size]...)
		data = data[size:]
	}
	return all
}

// FuzzRecords has any bytes come where records are.
func FuzzRecords(f *testing.F) {
	for _, seed := range []string{
		"", "\x00", record("one") + record("two"), record("one") + "\x00\x00\x05", "\n" + started + "X\n\n" + record("x"), record("")[:3], record("x") + hello,
		record(strings.Repeat("x", maxRecord+1)), strings.Repeat("x", maxLine) + record("x") + "\n" + record("y"),
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if got, _ := io.ReadAll(heard(t, data)); !bytes.Equal(got, carried(data)) {
			t.Errorf("%q became %q, want %q", data, got, carried(data))
		}
	})
}

// FuzzFrame has any bytes come where a frame is.
func FuzzFrame(f *testing.F) {
	for _, seed := range []string{
		"", "\x01", "\x01\x00\x00\x00\x00", "\x02\x00\x00\x00\x05hello", "\x02\x00\x00\x00\x05hell", "\x07\x00\x04\x00\x01", "\xff\xff\xff\xff\xff", "\x04\x00\x00\x00\x04\x00\x50\x00\x18\x05",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		got, err := readFrame(r, make([]byte, 3))
		switch {
		case err == nil:
			var again bytes.Buffer
			w := frameWriter{w: &again}
			if err := w.write(got.kind, got.payload); err != nil {
				t.Fatal(err)
			}
			if taken := data[:len(data)-r.Len()]; !bytes.Equal(again.Bytes(), taken) {
				t.Errorf("%q became %q", taken, &again)
			}
		case errdefs.IsInvalidArgument(err):
			if size := binary.BigEndian.Uint32(data[1:]); size <= maxFrame {
				t.Errorf("a frame of %d bytes is refused: %v", size, err)
			}
		case err == io.EOF:
			if len(data) > 0 {
				t.Errorf("%q is no whole frame, and got io.EOF", data)
			}
		case err != io.ErrUnexpectedEOF:
			t.Error(err)
		}
	})
}
