package apkmake

import (
	"cmp"
	"encoding/binary"
	"slices"
)

const androidNamespace = "http://schemas.android.com/apk/res/android"

const (
	kindString  = 0x03
	kindDecimal = 0x10
	kindBoolean = 0x12

	none = 0xffffffff
)

// resourceIDs are those of Android's attributes.
var resourceIDs = map[string]uint32{
	"label": 0x01010001, "name": 0x01010003, "sharedUserId": 0x0101000b, "hasCode": 0x0101000c, "debuggable": 0x0101000f,
	"exported": 0x01010010, "minSdkVersion": 0x0101020c, "versionCode": 0x0101021b, "versionName": 0x0101021c, "targetSdkVersion": 0x01010270,
	"testOnly": 0x01010272, "isFeatureSplit": 0x0101055b, "versionCodeMajor": 0x01010576, "isSplitRequired": 0x01010591,
}

// element is an element of the manifest.
type element struct {
	name     string
	attrs    []attribute
	children []element
}

// attribute is one of Android's if its name has a resource id.
type attribute struct {
	name string
	kind uint8
	data uint32
	text string
	keep bool // also with a value of nothing
}

func text(name, s string) attribute { return attribute{name: name, kind: kindString, text: s} }
func number(name string, n uint32) attribute {
	return attribute{name: name, kind: kindDecimal, data: n, keep: true}
}

func truth(name string, v bool) attribute {
	a := attribute{name: name, kind: kindBoolean}
	if v {
		a.data = none
	}
	return a
}

// always keeps the attribute even if it says nothing.
func (a attribute) always() attribute {
	a.keep = true
	return a
}

func (a attribute) empty() bool { return !a.keep && a.text == "" && a.data == 0 }

// writer numbers strings. The names of Android's attributes come first, as the resource map wants it.
type writer struct {
	strings []string
	index   map[string]uint32
	ids     []uint32
}

func (w *writer) add(s string) uint32 {
	if i, ok := w.index[s]; ok {
		return i
	}
	w.index[s] = uint32(len(w.strings))
	w.strings = append(w.strings, s)
	return w.index[s]
}

// encode writes the element as a binary XML.
func (e element) encode() []byte {
	w := &writer{index: map[string]uint32{}}
	var names []string
	e.attributeNames(&names)
	slices.SortFunc(names, func(a, b string) int { return cmp.Compare(resourceIDs[a], resourceIDs[b]) })
	for _, name := range slices.Compact(names) {
		w.add(name)
		w.ids = append(w.ids, resourceIDs[name])
	}
	prefix, namespace := w.add("android"), w.add(androidNamespace)
	body := w.node(0x0100, le32(nil, prefix, namespace))
	body = w.element(body, e)
	body = append(body, w.node(0x0101, le32(nil, prefix, namespace))...)
	all := w.pool()
	all = append(all, chunk(0x0180, nil, le32(nil, w.ids...))...)
	return chunk(0x0003, nil, append(all, body...))
}

func (e element) attributeNames(names *[]string) {
	for _, a := range e.attrs {
		if _, ok := resourceIDs[a.name]; ok && !a.empty() {
			*names = append(*names, a.name)
		}
	}
	for _, child := range e.children {
		child.attributeNames(names)
	}
}

// element appends an element and what is in it.
func (w *writer) element(b []byte, e element) []byte {
	attrs := slices.DeleteFunc(slices.Clone(e.attrs), attribute.empty)
	slices.SortStableFunc(attrs, func(x, y attribute) int { return cmp.Compare(resourceIDs[x.name]-1, resourceIDs[y.name]-1) })
	ext := le32(nil, none, w.add(e.name))
	for _, v := range []uint16{20, 20, uint16(len(attrs)), 0, 0, 0} {
		ext = binary.LittleEndian.AppendUint16(ext, v)
	}
	for _, a := range attrs {
		ext = w.attribute(ext, a)
	}
	b = append(b, w.node(0x0102, ext)...)
	for _, child := range e.children {
		b = w.element(b, child)
	}
	return append(b, w.node(0x0103, le32(nil, none, w.add(e.name)))...)
}

func (w *writer) attribute(b []byte, a attribute) []byte {
	namespace, raw, data := uint32(none), uint32(none), a.data
	if _, ok := resourceIDs[a.name]; ok {
		namespace = w.add(androidNamespace)
	}
	if a.kind == kindString {
		raw = w.add(a.text)
		data = raw
	}
	b = le32(b, namespace, w.add(a.name), raw)
	b = append(b, 8, 0, 0, a.kind)
	return le32(b, data)
}

// node is a chunk with a line number and no comment.
func (w *writer) node(kind uint16, ext []byte) []byte { return chunk(kind, le32(nil, 1, none), ext) }

// pool writes the string pool, in UTF-16.
func (w *writer) pool() []byte {
	var offsets, data []byte
	for _, s := range w.strings {
		offsets = le32(offsets, uint32(len(data)))
		units := utf16Of(s)
		data = binary.LittleEndian.AppendUint16(data, uint16(len(units)))
		for _, u := range units {
			data = binary.LittleEndian.AppendUint16(data, u)
		}
		data = append(data, 0, 0)
	}
	for len(data)%4 != 0 {
		data = append(data, 0)
	}
	head := le32(nil, uint32(len(w.strings)), 0, 0, 28+uint32(len(offsets)), 0)
	return chunk(0x0001, head, append(offsets, data...))
}

func chunk(kind uint16, head, body []byte) []byte {
	b := binary.LittleEndian.AppendUint16(nil, kind)
	b = binary.LittleEndian.AppendUint16(b, uint16(8+len(head)))
	b = le32(b, uint32(8+len(head)+len(body)))
	return append(append(b, head...), body...)
}
