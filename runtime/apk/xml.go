package apk

import "strings"

// The kinds of value, from Android's Res_value.
const (
	kindNull             = 0x00
	kindReference        = 0x01
	kindString           = 0x03
	kindDynamicReference = 0x07
	kindFirstInt         = 0x10
	kindBoolean          = 0x12
	kindLastInt          = 0x1f
)

// androidNamespace is that of the attributes that Android itself defines.
const androidNamespace = "http://schemas.android.com/apk/res/android"

// value is a typed value, of an attribute or of a resource. The text of a string is set.
type value struct {
	kind uint8
	data uint32
	text string
}

// isReference says that the value is that of a resource.
func (v value) isReference() bool { return v.kind == kindReference || v.kind == kindDynamicReference }

// isInt says that the value is a number or a boolean.
func (v value) isInt() bool { return v.kind >= kindFirstInt && v.kind <= kindLastInt }

// document is a binary XML that is walked through.
type document struct {
	pool *pool
	ids  []byte // the resource ids of the attributes' names, by the number of the name's string
}

// node is the beginning of an element. Its attributes are decoded when they are asked for.
type node struct {
	doc   *document
	name  string
	attrs []byte
	size  int // of one attribute
	count int
}

// visitor is called for each element, in the order of the text. depth is 0 for the root.
type visitor interface {
	start(depth int, n node) error
	end(depth int) error
}

// walk reads a binary XML from its first byte. Like Android it does not look at the kind of the outermost chunk, which some packers change.
// Only elements down to maxDepth are shown to v.
func walk(b []byte, maxDepth int, v visitor) error {
	outer, _, err := cut(b)
	if err != nil {
		return err
	}
	doc := &document{}
	depth := 0
	for rest := outer.body; len(rest) > 0; {
		var c chunk
		if c, rest, err = cut(rest); err != nil {
			return err
		}
		switch c.kind {
		case chunkStringPool:
			if doc.pool == nil {
				doc.pool, err = newPool(c)
			}
		case chunkResourceMap:
			doc.ids = c.body
		case chunkStartElement:
			if depth <= maxDepth {
				err = doc.open(c, depth, v)
			}
			depth++
		case chunkEndElement:
			if depth--; depth < 0 {
				return invalid("an element ends that has not begun")
			}
			if depth <= maxDepth {
				err = v.end(depth)
			}
		}
		if err != nil {
			return err
		}
	}
	if depth != 0 {
		return invalid("the text is cut off: %d elements have no end", depth)
	}
	return nil
}

// open shows the beginning of an element to v.
func (d *document) open(c chunk, depth int, v visitor) error {
	if d.pool == nil {
		return invalid("an element comes before the string pool")
	}
	if len(c.head) < 16 || len(c.body) < 20 {
		return invalid("an element has only %d bytes", len(c.head)+len(c.body))
	}
	name, err := d.pool.at(u32(c.body, 4))
	if err != nil {
		return err
	}
	start, size, count := int(u16(c.body, 8)), int(u16(c.body, 10)), int(u16(c.body, 12))
	if count > 0 && (size < 20 || start+size*count > len(c.body)) {
		return invalid("element %.40q says that it has %d attributes of %d bytes, and has %d bytes", name, count, size, len(c.body))
	}
	n := node{doc: d, name: name, size: size, count: count}
	if count > 0 {
		n.attrs = c.body[start:]
	}
	return v.start(depth, n)
}

// android returns the value of one of Android's attributes. They are known by the id of their resource; where a file has none, by name.
func (n node) android(id uint32, name string) (value, bool, error) {
	return n.find(func(i int) (bool, error) {
		if at := 4 * int64(u32(n.attrs, i+4)); at+4 <= int64(len(n.doc.ids)) && u32(n.doc.ids, int(at)) != 0 {
			return u32(n.doc.ids, int(at)) == id, nil
		}
		return n.isNamed(i, androidNamespace, name)
	})
}

// plain returns the value of an attribute without a namespace.
func (n node) plain(name string) (value, bool, error) {
	return n.find(func(i int) (bool, error) { return n.isNamed(i, "", name) })
}

// find returns the first attribute that matches. match is told where it is in attrs.
func (n node) find(match func(i int) (bool, error)) (value, bool, error) {
	for k := range n.count {
		ok, err := match(k * n.size)
		if err != nil {
			return value{}, false, err
		}
		if ok {
			v, err := n.value(k * n.size)
			return v, true, err
		}
	}
	return value{}, false, nil
}

func (n node) isNamed(i int, namespace, name string) (bool, error) {
	got, err := n.doc.pool.at(u32(n.attrs, i+4))
	if err != nil || got != name {
		return false, err
	}
	got, err = n.doc.pool.at(u32(n.attrs, i))
	return got == namespace, err
}

// value decodes the value of the attribute at i. A string is taken from the value, else from the text that the author wrote.
func (n node) value(i int) (value, error) {
	v := value{kind: n.attrs[i+15], data: u32(n.attrs, i+16)}
	index := v.data
	if v.kind != kindString {
		index = u32(n.attrs, i+8)
	}
	var err error
	if v.kind == kindString || v.kind == kindNull && index != noString {
		v.kind = kindString
		v.text, err = n.doc.pool.at(index)
	}
	return v, err
}

// className makes the full name of a class that the manifest may abbreviate.
func className(pkg, name string) string {
	switch {
	case name == "":
		return ""
	case strings.HasPrefix(name, "."):
		return pkg + name
	case !strings.Contains(name, "."):
		return pkg + "." + name
	}
	return name
}
