package binder

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestNumbers compares with what a C compiler makes of include/uapi/linux/android/binder.h.
func TestNumbers(t *testing.T) {
	got := map[string]uint32{
		"BINDER_WRITE_READ": ioctlWriteRead, "BINDER_VERSION": ioctlVersion, "BINDER_SET_CONTEXT_MGR_EXT": ioctlSetContextMgr,
		"BC_TRANSACTION": bcTransaction, "BC_REPLY": bcReply, "BC_FREE_BUFFER": bcFreeBuffer, "BC_ACQUIRE": bcAcquire, "BC_RELEASE": bcRelease,
		"BC_INCREFS_DONE": bcIncRefsDone, "BC_ACQUIRE_DONE": bcAcquireDone, "BC_ENTER_LOOPER": bcEnterLooper,
		"BC_REQUEST_DEATH_NOTIFICATION": bcRequestDeath, "BC_CLEAR_DEATH_NOTIFICATION": bcClearDeath, "BC_DEAD_BINDER_DONE": bcDeadDone,
		"BR_ERROR": brError, "BR_TRANSACTION": brTransaction, "BR_REPLY": brReply, "BR_DEAD_REPLY": brDeadReply, "BR_INCREFS": brIncRefs,
		"BR_ACQUIRE": brAcquire, "BR_DEAD_BINDER": brDeadBinder, "BR_CLEAR_DEATH_NOTIFICATION_DONE": brClearDeathDone,
		"BR_FAILED_REPLY": brFailedReply, "BR_FROZEN_REPLY": brFrozenReply,
		"BINDER_TYPE_BINDER": typeBinder, "BINDER_TYPE_HANDLE": typeHandle, "PING_TRANSACTION": codePing,
	}
	want := map[string]uint32{
		"BINDER_WRITE_READ":                0xc0306201,
		"BINDER_VERSION":                   0xc0046209,
		"BINDER_SET_CONTEXT_MGR_EXT":       0x4018620d,
		"BC_TRANSACTION":                   0x40406300,
		"BC_REPLY":                         0x40406301,
		"BC_FREE_BUFFER":                   0x40086303,
		"BC_ACQUIRE":                       0x40046305,
		"BC_RELEASE":                       0x40046306,
		"BC_INCREFS_DONE":                  0x40106308,
		"BC_ACQUIRE_DONE":                  0x40106309,
		"BC_ENTER_LOOPER":                  0x630c,
		"BC_REQUEST_DEATH_NOTIFICATION":    0x400c630e,
		"BC_CLEAR_DEATH_NOTIFICATION":      0x400c630f,
		"BC_DEAD_BINDER_DONE":              0x40086310,
		"BR_ERROR":                         0x80047200,
		"BR_TRANSACTION":                   0x80407202,
		"BR_REPLY":                         0x80407203,
		"BR_DEAD_REPLY":                    0x7205,
		"BR_INCREFS":                       0x80107207,
		"BR_ACQUIRE":                       0x80107208,
		"BR_DEAD_BINDER":                   0x8008720f,
		"BR_CLEAR_DEATH_NOTIFICATION_DONE": 0x80087210,
		"BR_FAILED_REPLY":                  0x7211,
		"BR_FROZEN_REPLY":                  0x7212,
		"BINDER_TYPE_BINDER":               0x73622a85,
		"BINDER_TYPE_HANDLE":               0x73682a85,
		"PING_TRANSACTION":                 0x5f504e47,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("numbers (-want +got):\n%s", diff)
	}
}

func TestTransactionLayout(t *testing.T) {
	want := transaction{target: 1, cookie: 2, code: 3, flags: 4, pid: -5, uid: 6, dataSize: 7, offsetsSize: 8, data: 9, offsets: 10}
	b := want.append(nil)
	if len(b) != sizeTransaction {
		t.Fatalf("%d bytes, want %d", len(b), sizeTransaction)
	}
	if got := readTransaction(b); got != want {
		t.Errorf("read %+v, want %+v", got, want)
	}
}

func TestNextAnswer(t *testing.T) {
	stream := order.AppendUint32(nil, 'r'<<8|12) // BR_NOOP
	stream = order.AppendUint32(stream, brDeadBinder)
	stream = order.AppendUint64(stream, 7)
	command, argument, rest, err := nextAnswer(stream)
	if err != nil || command != 'r'<<8|12 || len(argument) != 0 {
		t.Fatalf("first: %#x %v %v", command, argument, err)
	}
	command, argument, rest, err = nextAnswer(rest)
	if err != nil || command != brDeadBinder || order.Uint64(argument) != 7 || len(rest) != 0 {
		t.Fatalf("second: %#x %v %v", command, argument, err)
	}
	for _, n := range []int{1, 3, 4, 11} {
		if _, _, _, err := nextAnswer(stream[4 : 4+n]); err == nil {
			t.Errorf("%d bytes of an answer: no error", n)
		}
	}
}

func TestWithin(t *testing.T) {
	memory := []byte{0, 1, 2, 3, 4, 5, 6, 7}
	const base = 0x7000_0000_0000
	tests := []struct {
		name          string
		address, size uint64
		want          []byte
		ok            bool
	}{
		{"all", base, 8, memory, true},
		{"middle", base + 2, 3, memory[2:5], true},
		{"nothing, anywhere", 5, 0, nil, true},
		{"before", base - 1, 2, nil, false},
		{"over the end", base + 4, 5, nil, false},
		{"at the end", base + 8, 1, nil, false},
		{"behind", base + 9, 1, nil, false},
		{"a size that wraps", base + 1, 1<<64 - 1, nil, false},
		{"an address that wraps", 1<<64 - 1, 2, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := within(memory, base, tt.address, tt.size)
			if ok != tt.ok || !cmp.Equal(tt.want, got) {
				t.Errorf("%v %v, want %v %v", got, ok, tt.want, tt.ok)
			}
		})
	}
}

func TestParcel(t *testing.T) {
	p := &Parcel{}
	p.PutInt32(-3)
	p.PutString("")
	p.PutString("abc")
	p.PutString("Ångström 📱")
	p.PutObject(nil)
	p.PutObject(&Object{Handle: 7, Stability: 12})
	p.PutObject(&Object{Local: 9})
	q := received(p.data, p.packedOffsets())
	if n, a, b, c := q.Int32(), q.String(), q.String(), q.String(); n != -3 || a != "" || b != "abc" || c != "Ångström 📱" {
		t.Errorf("read %d %q %q %q", n, a, b, c)
	}
	var objects []*Object
	for range 3 {
		objects = append(objects, q.Object())
	}
	if diff := cmp.Diff([]*Object{nil, {Handle: 7, Stability: 12}, {Local: 9}}, objects); diff != "" {
		t.Errorf("objects (-want +got):\n%s", diff)
	}
	if q.Err() != nil || q.at != len(q.data) {
		t.Errorf("read to %d of %d: %v", q.at, len(q.data), q.Err())
	}
	if q.Int32(); q.Err() == nil {
		t.Error("a read beyond the end is no error")
	}
}

// TestParcelsThatLie reads what a caller may send who means ill.
func TestParcelsThatLie(t *testing.T) {
	object := func(kind uint32) []byte {
		p := &Parcel{}
		p.PutObject(&Object{Handle: 7})
		order.PutUint32(p.data, kind)
		return p.data
	}
	tests := []struct {
		name    string
		data    []byte
		offsets []byte
		read    func(p *Parcel)
	}{
		{"a string longer than memory", order.AppendUint32(nil, 1<<31-1), nil, func(p *Parcel) { _ = p.String() }},
		{"a string longer than the parcel", append(order.AppendUint32(nil, 3), "a\x00b\x00"...), nil, func(p *Parcel) { _ = p.String() }},
		{"a string without its zero", append(order.AppendUint32(nil, 2), "a\x00b\x00"...), nil, func(p *Parcel) { _ = p.String() }},
		{"a handle that the driver has not seen", object(typeHandle), nil, func(p *Parcel) { p.Object() }},
		{"a handle that the driver has seen elsewhere", object(typeHandle), order.AppendUint64(nil, 4), func(p *Parcel) { p.Object() }},
		{"an object that the driver has not seen", object(typeBinder), nil, func(p *Parcel) { p.Object() }},
		{"a descriptor", object('f'<<24 | 'd'<<16 | '*'<<8 | 0x85), order.AppendUint64(nil, 0), func(p *Parcel) { p.Object() }},
		{"half an object", object(typeHandle)[:20], order.AppendUint64(nil, 0), func(p *Parcel) { p.Object() }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := received(tt.data, tt.offsets)
			if tt.read(p); p.Err() == nil {
				t.Error("no error")
			}
		})
	}
}

func FuzzParcel(f *testing.F) {
	good := &Parcel{}
	putToken(good, managerInterface)
	good.PutString("activity")
	good.PutObject(&Object{Handle: 1, Stability: 12})
	f.Add(good.data, good.packedOffsets())
	f.Add([]byte{255, 255, 255, 127}, []byte{})
	f.Fuzz(func(t *testing.T, data, offsets []byte) {
		p := received(data, offsets)
		checkToken(p, managerInterface)
		name := p.String()
		o := p.Object()
		p.Int32()
		if len(name) > 3*len(data) {
			t.Errorf("a string of %d bytes from %d", len(name), len(data))
		}
		if o != nil && len(offsets) < 8 {
			t.Errorf("object %+v without a place", *o)
		}
		if p.Err() != nil && (p.String() != "" || p.Object() != nil || p.Int32() != 0) {
			t.Error("something is read after an error")
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add(order.AppendUint64(order.AppendUint32(nil, brDeadBinder), 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		for len(b) > 0 {
			_, _, rest, err := nextAnswer(b)
			if err != nil {
				return
			}
			if len(rest) >= len(b) {
				t.Fatal("nothing was taken")
			}
			b = rest
		}
	})
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{
		"activity": true, "android.os.IFoo/default": true, "a_b-c.d": true, strings.Repeat("x", 127): true,
		"": false, "a b": false, "é": false, "a\x00": false, strings.Repeat("x", 128): false,
	} {
		if got := validName(name); got != want {
			t.Errorf("%q: %v, want %v", name, got, want)
		}
	}
}
