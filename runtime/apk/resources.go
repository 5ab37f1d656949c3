package apk

import (
	"bytes"
	"cmp"
	"fmt"
)

const (
	maxReferences = 20
	maxChunks     = 64 << 10
	maxSteps      = 4 << 20

	noEntry = 0xffffffff

	typeSparse   = 0x01 // flags of a type
	typeOffset16 = 0x02

	entryComplex = 0x0001 // flags of an entry
	entryCompact = 0x0008
)

// lazyTable is the resource table of an archive, read when it is first asked.
type lazyTable struct {
	archive *archive
	table   *table
	err     error
	read    bool
}

// resolve returns what a reference leads to, through others. ok is false for one that leads out of this APK.
func (l *lazyTable) resolve(v value) (value, bool, error) {
	if !l.read {
		l.read = true
		l.load()
	}
	if l.err != nil || l.table == nil {
		return value{}, false, l.err
	}
	v, ok, err := l.table.resolve(v)
	if err != nil {
		err = fmt.Errorf("%s: %w", resourcesName, err)
	}
	return v, ok, err
}

func (l *lazyTable) load() {
	f, ok := l.archive.files[resourcesName]
	if !ok {
		return
	}
	b, err := l.archive.read(f, maxResources)
	if err != nil {
		l.err = err
		return
	}
	if l.table, err = newTable(b); err != nil {
		l.err = fmt.Errorf("%s: %w", resourcesName, err)
	}
}

// table is a resource table. Of its packages only the places of the types are kept.
type table struct {
	strings *pool
	types   map[uint16][]chunk // by the upper half of a resource's id: package and type
	steps   int
	known   map[uint32]found
}

// found is what a lookup gave.
type found struct {
	value value
	ok    bool
}

// newTable finds the parts of resources.arsc.
func newTable(b []byte) (*table, error) {
	outer, _, err := cut(b)
	if err != nil {
		return nil, err
	}
	if outer.kind != chunkTable {
		return nil, invalid("it begins with a chunk of kind 0x%04x, not with a resource table", outer.kind)
	}
	t := &table{types: map[uint16][]chunk{}, known: map[uint32]found{}}
	chunks := 0
	for rest := outer.body; len(rest) > 0; {
		var c chunk
		if c, rest, err = cut(rest); err != nil {
			return nil, err
		}
		switch {
		case c.kind == chunkStringPool && t.strings == nil:
			t.strings, err = newPool(c)
		case c.kind == chunkPackage:
			err = t.addPackage(c, &chunks)
		}
		if err != nil {
			return nil, err
		}
		if chunks++; chunks > maxChunks {
			return nil, invalid("it has more than %d chunks", maxChunks)
		}
	}
	return t, nil
}

// addPackage finds the types of a package.
func (t *table) addPackage(p chunk, chunks *int) error {
	id := u32(p.head, 8)
	for rest := p.body; len(rest) > 0; {
		var c chunk
		var err error
		if c, rest, err = cut(rest); err != nil {
			return fmt.Errorf("package 0x%02x: %w", id, err)
		}
		if *chunks++; *chunks > maxChunks {
			return invalid("it has more than %d chunks", maxChunks)
		}
		if c.kind != chunkType || len(c.head) < 20 || id > 0xff {
			continue
		}
		key := uint16(id)<<8 | uint16(c.head[8])
		t.types[key] = append(t.types[key], c)
	}
	return nil
}

// resolve follows references.
func (t *table) resolve(v value) (value, bool, error) {
	for range maxReferences {
		if !v.isReference() {
			return v, true, nil
		}
		if v.data == 0 {
			return value{}, false, nil // @null
		}
		next, err := t.lookup(v.data)
		if err != nil || !next.ok {
			return value{}, false, err
		}
		v = next.value
	}
	return value{}, false, invalid("resource 0x%08x is reached by more than %d references, or by itself", v.data, maxReferences)
}

// lookup returns the value of a resource in the configuration that fits best.
func (t *table) lookup(id uint32) (found, error) {
	if f, ok := t.known[id]; ok {
		return f, nil
	}
	var best found
	var rank configuration
	for _, c := range t.types[uint16(id>>16)] {
		if t.steps++; t.steps > maxSteps {
			return found{}, invalid("looking up its resources takes more than %d steps", maxSteps)
		}
		entry, ok, err := t.entry(c, id&0xffff)
		if err != nil {
			return found{}, err
		}
		if !ok {
			continue
		}
		if r := rankOf(c.head[20:]); !best.ok || r.compare(rank) < 0 {
			best, rank = found{entry, true}, r
		}
	}
	if best.ok && best.value.kind == kindString {
		var err error
		if best.value.text, err = t.strings.at(best.value.data); err != nil {
			return found{}, err
		}
	}
	t.known[id] = best
	return best, nil
}

// entry reads an entry of a type. ok is false where the type has none by that number, or one that is not a plain value.
func (t *table) entry(c chunk, index uint32) (value, bool, error) {
	offset, ok := t.offset(c, index)
	if !ok {
		return value{}, false, nil
	}
	start := int64(u32(c.head, 16)) - int64(len(c.head)) + int64(offset)
	if start < 0 || start+8 > int64(len(c.body)) {
		return value{}, false, invalid("entry %d of type %d lies outside of it", index, c.head[8])
	}
	b := c.body[start:]
	flags := u16(b, 2)
	if flags&entryCompact != 0 {
		return value{kind: uint8(flags >> 8), data: u32(b, 4)}, true, nil
	}
	size := int(u16(b, 0))
	if flags&entryComplex != 0 {
		return value{}, false, nil
	}
	if size < 8 || size+8 > len(b) {
		return value{}, false, invalid("entry %d of type %d is cut off", index, c.head[8])
	}
	return value{kind: b[size+3], data: u32(b, size+4)}, true, nil
}

// offset finds an entry in the list of a type's entries.
func (t *table) offset(c chunk, index uint32) (uint32, bool) {
	flags, count := c.head[9], u32(c.head, 12)
	switch {
	case flags&typeSparse != 0:
		return t.sparse(c.body, count, uint16(index))
	case index >= count:
		return 0, false
	case flags&typeOffset16 != 0:
		if int(index)*2+2 > len(c.body) {
			return 0, false
		}
		v := u16(c.body, int(index)*2)
		return uint32(v) * 4, v != 0xffff
	case int64(index)*4+4 > int64(len(c.body)):
		return 0, false
	}
	v := u32(c.body, int(index)*4)
	return v, v != noEntry
}

// sparse searches a list of pairs, number and place, that is sorted by number.
func (t *table) sparse(b []byte, count uint32, index uint16) (uint32, bool) {
	low, high := 0, int(min(int64(count), int64(len(b)/4)))
	for low < high {
		middle := (low + high) / 2
		switch got := u16(b, 4*middle); {
		case got == index:
			return uint32(u16(b, 4*middle+2)) * 4, true
		case got < index:
			low = middle + 1
		default:
			high = middle
		}
	}
	return 0, false
}

// configuration tells how well a configuration fits a phone of which nothing is known: least is best.
type configuration struct {
	locale int // 0 none, 1 English, 2 another
	other  int // 1 if it depends on anything else, but for the Android version
	sdk    int // the newer the better
}

func (a configuration) compare(b configuration) int {
	return cmp.Or(cmp.Compare(a.locale, b.locale), cmp.Compare(a.other, b.other), cmp.Compare(b.sdk, a.sdk))
}

// rankOf reads a ResTable_config.
func rankOf(b []byte) configuration {
	if size := int(u32(b, 0)); size >= 4 && size < len(b) {
		b = b[:size]
	}
	var c configuration
	switch {
	case len(b) < 12 || bytes.Equal(b[8:12], make([]byte, 4)):
	case b[8] == 'e' && b[9] == 'n':
		c.locale = 1
	default:
		c.locale = 2
	}
	c.sdk = int(u16(b, 24))
	for i := 4; i < len(b); i++ {
		locale := i >= 8 && i < 12 || i >= 36 && i < 48 || i >= 52
		if version := i >= 24 && i < 28; !locale && !version && b[i] != 0 {
			c.other = 1
		}
	}
	return c
}
