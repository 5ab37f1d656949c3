package wire

import (
	"bytes"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// every is a message with every kind of argument.
var every = &Message{Interface: "test", Name: "every", Opcode: 7, Since: 1, Params: []Param{
	{Name: "int", Kind: KindInt},
	{Name: "uint", Kind: KindUint},
	{Name: "fixed", Kind: KindFixed},
	{Name: "string", Kind: KindString},
	{Name: "maybe", Kind: KindString, Nullable: true},
	{Name: "object", Kind: KindObject},
	{Name: "none", Kind: KindObject, Nullable: true},
	{Name: "new", Kind: KindNewID},
	{Name: "array", Kind: KindArray},
	{Name: "fd", Kind: KindFD},
}}

func noFDs() (int, bool) { return -1, false }

func TestRoundTrip(t *testing.T) {
	in := []Value{Int(-5), Uint(math.MaxUint32), Fix(ToFixed(-1.5)), String("héllo"), NullString(), Object(3), Object(0),
		NewID(9), Array([]byte{1, 2, 3, 4, 5}), FD(42)}
	b, err := Append([]byte("before"), 12, every, in...)
	if err != nil {
		t.Fatal(err)
	}
	b = b[len("before"):]
	h, err := ParseHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Header{Object: 12, Opcode: 7, Size: len(b)}); h != want {
		t.Errorf("header is %+v, want %+v", h, want)
	}
	out, err := Decode(nil, every, b[HeaderSize:], func() (int, bool) { return 42, true })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(in, out, cmp.AllowUnexported(Value{})); diff != "" {
		t.Errorf("arguments changed on the way (-in +out):\n%s", diff)
	}
}

func TestAppendKnownBytes(t *testing.T) {
	m := &Message{Interface: "wl_registry", Name: "bind", Opcode: 0, Params: []Param{
		{Name: "name", Kind: KindUint}, {Name: "interface", Kind: KindString}, {Name: "version", Kind: KindUint}, {Name: "id", Kind: KindNewID},
	}}
	got, err := Append(nil, 2, m, Uint(1), String("wl_shm"), Uint(1), NewID(3))
	if err != nil {
		t.Fatal(err)
	}
	want := []byte{2, 0, 0, 0, 0, 0, 32, 0, 1, 0, 0, 0, 7, 0, 0, 0, 'w', 'l', '_', 's', 'h', 'm', 0, 0, 1, 0, 0, 0, 3, 0, 0, 0}
	if !bytes.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestAppendRefuses(t *testing.T) {
	str := &Message{Interface: "test", Name: "str", Params: []Param{{Name: "s", Kind: KindString}}}
	obj := &Message{Interface: "test", Name: "obj", Params: []Param{{Name: "o", Kind: KindObject}}}
	fresh := &Message{Interface: "test", Name: "new", Params: []Param{{Name: "n", Kind: KindNewID}}}
	tests := map[string]struct {
		m    *Message
		args []Value
	}{
		"too few":     {str, nil},
		"wrong kind":  {str, []Value{Uint(1)}},
		"null string": {str, []Value{NullString()}},
		"NUL inside":  {str, []Value{String("a\x00b")}},
		"null object": {obj, []Value{Object(0)}},
		"null new_id": {fresh, []Value{NewID(0)}},
		"too long":    {str, []Value{String(strings.Repeat("x", MaxMessage))}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			b, err := Append([]byte{1}, 1, tt.m, tt.args...)
			if !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, want ErrMalformed", err)
			}
			if !bytes.Equal(b, []byte{1}) {
				t.Errorf("left %v behind", b)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	msg := func(kinds ...Kind) *Message {
		m := &Message{Interface: "test", Name: "m"}
		for _, k := range kinds {
			m.Params = append(m.Params, Param{Name: k.String(), Kind: k})
		}
		return m
	}
	tests := map[string]struct {
		m    *Message
		body []byte
	}{
		"empty for int":       {msg(KindInt), nil},
		"short int":           {msg(KindInt), []byte{1, 2}},
		"bytes left":          {msg(KindInt), []byte{1, 0, 0, 0, 2, 0, 0, 0}},
		"bytes for nothing":   {msg(), []byte{1, 0, 0, 0}},
		"null object":         {msg(KindObject), []byte{0, 0, 0, 0}},
		"null new_id":         {msg(KindNewID), []byte{0, 0, 0, 0}},
		"null string":         {msg(KindString), []byte{0, 0, 0, 0}},
		"string without NUL":  {msg(KindString), []byte{4, 0, 0, 0, 'a', 'b', 'c', 'd'}},
		"string with two NUL": {msg(KindString), []byte{4, 0, 0, 0, 'a', 0, 'c', 0}},
		"string beyond":       {msg(KindString), []byte{5, 0, 0, 0, 'a', 'b', 'c', 0}},
		"string huge":         {msg(KindString), []byte{0xff, 0xff, 0xff, 0xff, 'a', 'b', 'c', 0}},
		"array huge":          {msg(KindArray), []byte{0xfd, 0xff, 0xff, 0xff, 'a', 'b', 'c', 0}},
		"array beyond":        {msg(KindArray), []byte{1, 0, 0, 0}},
		"no fd":               {msg(KindFD), nil},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got, err := Decode(nil, tt.m, tt.body, noFDs); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %v, %v; want ErrMalformed", got, err)
			}
		})
	}
}

func TestHeaderRefuses(t *testing.T) {
	for name, size := range map[string]uint32{"zero": 0, "below header": 4, "odd": 9, "not a word": 14, "too long": MaxMessage + 4} {
		t.Run(name, func(t *testing.T) {
			b := []byte{1, 0, 0, 0, 0, 0, byte(size), byte(size >> 8)}
			if h, err := ParseHeader(b); !errors.Is(err, ErrMalformed) {
				t.Errorf("got %+v, %v; want ErrMalformed", h, err)
			}
		})
	}
}

func TestFixed(t *testing.T) {
	tests := map[string]struct {
		in   float64
		want Fixed
	}{
		"zero":     {0, 0},
		"half":     {0.5, 128},
		"negative": {-1.25, -320},
		"rounds":   {1.0 / 512, 1},
		"too big":  {1e12, math.MaxInt32},
		"too low":  {-1e12, math.MinInt32},
		"nan":      {math.NaN(), 0},
		"inf":      {math.Inf(1), math.MaxInt32},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := ToFixed(tt.in); got != tt.want {
				t.Errorf("ToFixed(%v) = %d, want %d", tt.in, got, tt.want)
			}
		})
	}
	if got := Fixed(-320).Float(); got != -1.25 {
		t.Errorf("Float is %v, want -1.25", got)
	}
}

// FuzzDecode feeds bytes to the decoder: whatever it accepts must marshal to the same arguments again.
func FuzzDecode(f *testing.F) {
	good, err := Append(nil, 1, every, Int(1), Uint(2), Fix(3), String("abc"), NullString(), Object(3), Object(0), NewID(9),
		Array([]byte{1, 2}), FD(3))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{1, 0, 0, 0, 7, 0, 8, 0})
	f.Add([]byte{1, 0, 0, 0, 7, 0, 12, 0, 255, 255, 255, 255})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) < HeaderSize {
			return
		}
		h, err := ParseHeader(data)
		if err != nil || h.Size > len(data) {
			return
		}
		args, err := Decode(nil, every, data[HeaderSize:h.Size], func() (int, bool) { return -1, true })
		if err != nil {
			return
		}
		again, err := Append(nil, h.Object, every, args...)
		if err != nil {
			t.Fatalf("decoded but does not marshal: %v", err)
		}
		back, err := Decode(nil, every, again[HeaderSize:], func() (int, bool) { return -1, true })
		if err != nil {
			t.Fatalf("marshalled but does not decode: %v", err)
		}
		if diff := cmp.Diff(args, back, cmp.AllowUnexported(Value{})); diff != "" {
			t.Errorf("arguments changed:\n%s", diff)
		}
	})
}
