package binder

import (
	"fmt"
	"slices"
	"unicode/utf16"

	"github.com/containerd/errdefs"
)

// Parcel is the data of a transaction: what is read from it comes in the order in which it was written. The zero value is empty and
// can be written to. A read beyond the end, or of what is not there, makes Err return an error, and that and all later reads return
// zero values.
type Parcel struct {
	data    []byte
	offsets []uint64 // of the objects in data
	at      int      // where the next read is
	err     error
}

// received makes a Parcel of what another process sent, copying it. The driver has checked that the objects lie in the data and do
// not overlap.
func received(data, offsets []byte) *Parcel {
	p := &Parcel{data: slices.Clone(data)}
	for ; len(offsets) >= 8; offsets = offsets[8:] {
		p.offsets = append(p.offsets, order.Uint64(offsets))
	}
	return p
}

// Err returns the first error of a read.
func (p *Parcel) Err() error { return p.err }

// take returns the next n bytes; all that is written takes a multiple of four.
func (p *Parcel) take(n int) []byte {
	if p.err == nil && (n < 0 || n > len(p.data)-p.at) {
		p.err = fmt.Errorf("parcel of %d bytes: %d more at %d: %w", len(p.data), n, p.at, errdefs.ErrInvalidArgument)
	}
	if p.err != nil {
		return nil
	}
	p.at += n
	return p.data[p.at-n : p.at]
}

// Int32 reads a number.
func (p *Parcel) Int32() int32 {
	b := p.take(4)
	if b == nil {
		return 0
	}
	return int32(order.Uint32(b))
}

// String reads a string, which parcels hold in UTF-16 with a zero behind it; a null string is read as "".
func (p *Parcel) String() string {
	n := p.Int32()
	if p.err != nil || n < 0 {
		return ""
	}
	if int(n) > len(p.data)/2 { // before it is multiplied
		p.err = fmt.Errorf("parcel of %d bytes: string of %d units: %w", len(p.data), n, errdefs.ErrInvalidArgument)
		return ""
	}
	b := p.take((2*(int(n)+1) + 3) &^ 3)
	if b == nil {
		return ""
	}
	units := make([]uint16, n)
	for i := range units {
		units[i] = order.Uint16(b[2*i:])
	}
	return string(utf16.Decode(units))
}

// Object is a reference to an object of some process.
type Object struct {
	// Handle is the object's number among those of other processes that this one knows.
	Handle uint32
	// Local is its number among this process's own, from 1; 0 for others' objects.
	Local uint64
	// Stability is carried along: Android's promise about how long the interface lasts.
	Stability int32
}

// Object reads a reference; nil for a null reference.
func (p *Parcel) Object() *Object {
	at := p.at
	b := p.take(sizeObject)
	if b == nil {
		return nil
	}
	kind, value := order.Uint32(b), order.Uint64(b[8:])
	stability := p.Int32()
	switch {
	case p.err != nil:
		return nil
	case kind == typeBinder && value == 0:
		return nil // null needs nothing of the driver
	case !slices.Contains(p.offsets, uint64(at)):
		// The driver has not seen it: the number in it is the sender's invention.
	case kind == typeHandle:
		return &Object{Handle: uint32(value), Stability: stability}
	case kind == typeBinder:
		return &Object{Local: value, Stability: stability}
	}
	p.err = fmt.Errorf("parcel of %d bytes: no object at %d: %w", len(p.data), at, errdefs.ErrInvalidArgument)
	return nil
}

// PutInt32 writes a number.
func (p *Parcel) PutInt32(v int32) { p.data = order.AppendUint32(p.data, uint32(v)) }

// PutString writes a string.
func (p *Parcel) PutString(s string) {
	units := utf16.Encode([]rune(s))
	p.PutInt32(int32(len(units)))
	for _, u := range units {
		p.data = order.AppendUint16(p.data, u)
	}
	p.data = order.AppendUint16(p.data, 0)
	for len(p.data)%4 != 0 {
		p.data = append(p.data, 0)
	}
}

// PutObject writes a reference; nil for null.
func (p *Parcel) PutObject(o *Object) {
	var kind, flags uint32 = typeBinder, leastNice
	var value uint64
	var stability int32
	if o != nil {
		stability, value = o.Stability, o.Local
		if o.Local == 0 {
			kind, value = typeHandle, uint64(o.Handle)
		}
		p.offsets = append(p.offsets, uint64(len(p.data)))
	}
	p.data = order.AppendUint32(p.data, kind)
	p.data = order.AppendUint32(p.data, flags)
	p.data = order.AppendUint64(p.data, value)
	p.data = order.AppendUint64(p.data, value) // the cookie: a local object's is its number too
	p.PutInt32(stability)
}

// packedOffsets returns the places of the objects as the driver takes them.
func (p *Parcel) packedOffsets() []byte {
	var b []byte
	for _, at := range p.offsets {
		b = order.AppendUint64(b, at)
	}
	return b
}
