package apk

import (
	"encoding/binary"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// piece writes a chunk: its kind, the rest of its header, its body.
func piece(kind uint16, head, body []byte) []byte {
	b := binary.LittleEndian.AppendUint16(nil, kind)
	b = binary.LittleEndian.AppendUint16(b, uint16(8+len(head)))
	b = binary.LittleEndian.AppendUint32(b, uint32(8+len(head)+len(body)))
	return append(append(b, head...), body...)
}

func words(list ...uint32) (b []byte) {
	for _, v := range list {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return b
}

// stringPool writes a pool in UTF-8. Every string is at one of the places.
func stringPool(data []byte, offsets ...uint32) []byte {
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	return piece(chunkStringPool, words(uint32(len(offsets)), 0, 0x100, uint32(28+4*len(offsets)), 0), append(words(offsets...), data...))
}

// text8 is a string of a pool in UTF-8.
func text8(s string) []byte {
	n := len(s)
	long := []byte{byte(n>>8) | 0x80, byte(n)}
	return append(append(append(long, long...), s...), 0)
}

// tag writes the beginning of an element without attributes.
func tag(name uint32) []byte {
	return piece(chunkStartElement, words(1, noString), append(words(noString, name), 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0))
}

func endTag(name uint32) []byte {
	return piece(chunkEndElement, words(1, noString), words(noString, name))
}

// named is an element with one attribute without a namespace.
func named(name, attribute, text uint32) []byte {
	attr := words(noString, attribute, text, uint32(kindString)<<24|8, text)
	return piece(chunkStartElement, words(1, noString), append(append(words(noString, name), 20, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0, 0), attr...))
}

func refused(t *testing.T, err error, want string) {
	t.Helper()
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v, want an invalid argument with %q", err, want)
	}
}

func parse(b []byte) (*Info, error) { return parseManifest(b, &lazyTable{read: true}) }

func TestChunkSizes(t *testing.T) {
	for name, b := range map[string][]byte{
		"short": {3, 0, 8}, "zero": words(0x00080003, 0), "smaller than its header": words(0x00100003, 8, 0, 0), "header of 4": words(0x00040003, 8),
		"larger than the file": words(0x00080003, 16), "negative": words(0x00080003, 0xfffffff8), "odd": append(words(0x00080003, 9), 0),
	} {
		if _, _, err := cut(b); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDeepNesting opens elements as deep as a manifest can, and one without an end.
func TestDeepNesting(t *testing.T) {
	pool := stringPool(append(append(text8("manifest"), text8("package")...), text8("com.example")...), 0, 13, 25)
	body := append(pool, named(0, 1, 2)...)
	const depth = 100_000
	for range depth {
		body = append(body, tag(0)...)
	}
	for range depth {
		body = append(body, endTag(0)...)
	}
	info, err := parse(piece(chunkXML, nil, append(body, endTag(0)...)))
	if err != nil || info.Package != "com.example" {
		t.Errorf("%+v, %v", info, err)
	}
	_, err = parse(piece(chunkXML, nil, body))
	refused(t, err, "1 elements have no end")
	_, err = parse(piece(chunkXML, nil, append(body, append(endTag(0), endTag(0)...)...)))
	refused(t, err, "ends that has not begun")
}

// TestStringBudget has many strings that are all the same long one.
func TestStringBudget(t *testing.T) {
	long := text8(strings.Repeat("x", 0x7fff))
	offsets := make([]uint32, 1000)
	p, err := newPool(chunkOf(t, stringPool(long, offsets...)))
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(1000) {
		if _, err = p.at(i); err != nil {
			break
		}
	}
	refused(t, err, "more than 16777216 bytes")
	if s, err := p.at(0); len(s) != 0x7fff || err != nil {
		t.Errorf("the first string: %d bytes, %v", len(s), err)
	}
}

func chunkOf(t *testing.T, b []byte) chunk {
	t.Helper()
	c, _, err := cut(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPoolsThatLie(t *testing.T) {
	for name, b := range map[string][]byte{
		"count":  piece(chunkStringPool, words(1<<30, 0, 0, 28, 0), nil),
		"start":  piece(chunkStringPool, words(1, 0, 0, 1<<20, 0), words(0)),
		"before": piece(chunkStringPool, words(1, 0, 0, 4, 0), words(0)),
		"header": piece(chunkStringPool, nil, nil),
	} {
		if _, err := newPool(chunkOf(t, b)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	p, err := newPool(chunkOf(t, stringPool([]byte{0xff, 0xff, 0xff, 0xff}, 0, 100)))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []string{"cut off", "lies outside", "is not in the string pool"} {
		_, err := p.at(uint32(i))
		refused(t, err, want)
	}
}

// resource writes a table with one package, whose type 1 has entries with the values.
func resource(values ...value) []byte {
	const header = 20 + 36 // with a configuration of 36 bytes
	var offsets, entries []byte
	for _, v := range values {
		offsets = append(offsets, words(uint32(len(entries)))...)
		entries = append(entries, words(8, 0, uint32(v.kind)<<24|8, v.data)...)
	}
	head := append(words(1, uint32(len(values)), uint32(header+len(offsets))), append(words(36), make([]byte, 32)...)...)
	body := piece(chunkType, head, append(offsets, entries...))
	pkg := piece(chunkPackage, append(words(0x7f), make([]byte, 256+20)...), body)
	return piece(chunkTable, words(1), append(stringPool(text8("text"), 0), pkg...))
}

func TestReferences(t *testing.T) {
	chain := make([]value, 40)
	for i := range chain {
		chain[i] = value{kind: kindReference, data: 0x7f010000 + uint32(i) + 1}
	}
	chain[39] = value{kind: kindString}
	table, err := newTable(resource(chain...))
	if err != nil {
		t.Fatal(err)
	}
	if v, ok, err := table.resolve(value{kind: kindReference, data: 0x7f010000 + 25}); v.text != "text" || !ok || err != nil {
		t.Errorf("%v %v %v", v, ok, err)
	}
	_, _, err = table.resolve(value{kind: kindReference, data: 0x7f010000})
	refused(t, err, "more than 20 references")
	for _, missing := range []uint32{0, 0x7f010000 + 40, 0x7f020000, 0x01040000, 0xffffffff} {
		if _, ok, err := table.resolve(value{kind: kindReference, data: missing}); ok || err != nil {
			t.Errorf("0x%08x: %v, %v", missing, ok, err)
		}
	}
	loop, err := newTable(resource(value{kind: kindReference, data: 0x7f010001}, value{kind: kindReference, data: 0x7f010000}))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = loop.resolve(value{kind: kindReference, data: 0x7f010000})
	refused(t, err, "or by itself")
}

// TestManyChunks has more types than any app, and asks for more resources than any manifest.
func TestManyChunks(t *testing.T) {
	one := piece(chunkType, words(1, 0, 24, 4), nil)
	build := func(n int) []byte {
		body := make([]byte, 0, n*len(one))
		for range n {
			body = append(body, one...)
		}
		return piece(chunkTable, words(1), piece(chunkPackage, append(words(0x7f), make([]byte, 276)...), body))
	}
	_, err := newTable(build(maxChunks))
	refused(t, err, "more than 65536 chunks")
	table, err := newTable(build(maxChunks - 2))
	if err != nil {
		t.Fatal(err)
	}
	for id := uint32(0); err == nil && id < 100; id++ {
		_, _, err = table.resolve(value{kind: kindReference, data: 0x7f010000 + id})
	}
	refused(t, err, "more than 4194304 steps")
}

// TestSparseAndShort reads the forms of a type's list that aapt2 writes for large apps, and entries that are one value.
func TestSparseAndShort(t *testing.T) {
	sparse := []byte{5, 0, 0, 0, 9, 0, 4, 0} // entries 5 and 9, at 0 and 16
	entries := append(words(8, 0, uint32(kindFirstInt)<<24|8, 50), words(8, 0, uint32(kindFirstInt)<<24|8, 90)...)
	head := func(flags byte, count uint32, offsets int) []byte {
		return append([]byte{1, flags, 0, 0}, words(count, uint32(24+offsets), 4)...)
	}
	compact := append([]byte{7, 0, entryCompact, kindFirstInt}, words(70)...)
	for name, test := range map[string]struct {
		chunk []byte
		want  map[uint32]uint32
	}{
		"sparse":   {piece(chunkType, head(typeSparse, 2, 8), append(sparse, entries...)), map[uint32]uint32{5: 50, 9: 90}},
		"offset16": {piece(chunkType, head(typeOffset16, 2, 4), append([]byte{0xff, 0xff, 0, 0}, entries[:16]...)), map[uint32]uint32{1: 50}},
		"compact":  {piece(chunkType, head(0, 1, 4), append(words(0), compact...)), map[uint32]uint32{0: 70}},
	} {
		c := chunkOf(t, test.chunk)
		for i := range uint32(12) {
			v, ok, err := (&table{}).entry(c, i)
			if want, there := test.want[i]; ok != there || v.data != want || err != nil {
				t.Errorf("%s: entry %d: %v %v %v, want %d", name, i, v.data, ok, err, want)
			}
		}
	}
}

// TestManyActivities is a manifest with more of them than can be.
func TestManyActivities(t *testing.T) {
	var data []byte
	var offsets []uint32
	for _, s := range []string{"manifest", "package", "com.example", "application", "activity", "name", androidNamespace} {
		offsets = append(offsets, uint32(len(data)))
		data = append(data, text8(s)...)
	}
	body := append(stringPool(data, offsets...), named(0, 1, 2)...)
	body = append(body, tag(3)...)
	attr := words(6, 5, 4, uint32(kindString)<<24|8, 4)
	activity := piece(chunkStartElement, words(1, noString), append(append(words(noString, 4), 20, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0, 0), attr...))
	for range maxActivities + 1 {
		body = append(append(body, activity...), endTag(4)...)
	}
	body = append(append(body, endTag(3)...), endTag(0)...)
	_, err := parse(piece(chunkXML, nil, body))
	refused(t, err, "more than 8192 activities")
}
