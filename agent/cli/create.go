package cli

import (
	"context"
	"io"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/phonehost/phonehost/agent/fault"
	phonehostv1 "github.com/phonehost/phonehost/proto/phonehost/v1"
)

type createCmd struct {
	ID            string            `arg:"" help:"Name of the phone on this host: 1..32 of a-z, 0-9 and hyphens."`
	Image         string            `placeholder:"IMG" help:"Image the host has, such as phonehost.dev/testphone:latest. Needed without --clone-from."`
	CloneFrom     string            `placeholder:"ID" help:"Copy the data of this phone, which is off. What is not given here is as it is there, but for labels, lease, addresses and forwards."`
	Profile       string            `placeholder:"NAME" help:"Kind of Android image. Default: what the image says."`
	VCPUs         float64           `name:"vcpus" placeholder:"N" help:"CPU time in cores, parts too. Default: 2."`
	CPUWeight     uint32            `name:"cpu-weight" placeholder:"N" help:"Share against other phones when CPUs are short, 1..10000. Default: 100."`
	Memory        *size             `placeholder:"SIZE" help:"Memory limit, such as 512MiB. Default: 512MiB."`
	Data          size              `placeholder:"SIZE" help:"Size of /data, such as 4GiB; it is sparse. Default: 4GiB."`
	Display       screen            `placeholder:"WxH@FPS" help:"Screen: 720x1280@30 or 720x1280@30/320dpi. Default: 720x1280@30/320dpi."`
	Property      map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Property that the guest's init sets; may be repeated."`
	Label         map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Word of yours to keep with the phone; may be repeated."`
	RestartPolicy *string           `enum:"always,on-guest-reboot,never" placeholder:"POLICY" help:"What follows when the guest ends by itself: always, on-guest-reboot or never. Default: always."`
	AppList       string            `name:"app-list" placeholder:"LIST" help:"List of apps that it is on. Default: none."`
	networking
	leasing
	NoWait bool `help:"With --clone-from: do not wait for the end of the copy."`
}

// networking are the flags of a new phone's network.
type networking struct {
	Policy  string    `placeholder:"POLICY" help:"Network policy. Default: allow-internet."`
	Up      bandwidth `placeholder:"RATE" help:"Bound of what it sends, such as 10Mbit. Default: none."`
	Down    bandwidth `placeholder:"RATE" help:"Bound of what it receives. Default: none."`
	IPv4    string    `name:"ipv4" placeholder:"ADDRESS" help:"Its IPv4 address. Default: the lowest that is free."`
	IPv6    string    `name:"ipv6" placeholder:"ADDRESS" help:"Its IPv6 address. Default: the lowest that is free."`
	Forward []forward `sep:"none" placeholder:"ADDRESS:PORT:PHONEPORT" help:"Port of the host that leads to it, such as 127.0.0.1:6001:5555; may be repeated."`
}

// spec returns the network of a new phone, nil where nothing is asked for.
func (n networking) spec() *phonehostv1.NetworkSpec {
	spec := &phonehostv1.NetworkSpec{
		Policy: n.Policy, UpBitsPerSecond: uint64(n.Up), DownBitsPerSecond: uint64(n.Down), Ipv4: n.IPv4, Ipv6: n.IPv6,
	}
	for _, f := range n.Forward {
		spec.Forwards = append(spec.Forwards, f.spec)
	}
	if proto.Size(spec) == 0 {
		return nil
	}
	return spec
}

// defaultMemory is the memory of a phone that is made from nothing.
const defaultMemory = 512 << 20

var restartPolicies = map[string]phonehostv1.RestartPolicy{
	"always":          phonehostv1.RestartPolicy_RESTART_POLICY_ALWAYS,
	"on-guest-reboot": phonehostv1.RestartPolicy_RESTART_POLICY_ON_GUEST_REBOOT,
	"never":           phonehostv1.RestartPolicy_RESTART_POLICY_NEVER,
}

func (c *createCmd) Run(ctx context.Context, a *app) error {
	if c.Image == "" && c.CloneFrom == "" {
		return usagef("create needs --image IMG, or --clone-from ID")
	}
	if c.NoWait && c.CloneFrom == "" {
		return usagef("--no-wait is for --clone-from: nothing else is waited for")
	}
	phones, err := a.phones(ctx)
	if err != nil {
		return err
	}
	answer, err := phones.CreatePhone(ctx, &phonehostv1.CreatePhoneRequest{Spec: c.spec(a), CloneFrom: c.CloneFrom})
	if err != nil {
		return about(c.subject(err), err)
	}
	phone := answer.GetPhone()
	if op := answer.GetOperation(); op != nil && !c.NoWait {
		if op, err = a.follow(ctx, op); err != nil {
			return err
		}
		if err := a.outcome(op); err != nil {
			return err
		}
		got, err := phones.GetPhone(ctx, &phonehostv1.GetPhoneRequest{PhoneId: c.ID})
		if err != nil {
			return about(c.ID, err)
		}
		phone = got.GetPhone()
	}
	return a.print(phone, func(io.Writer) error {
		if id := phone.GetOperationId(); id != "" {
			a.sayf("%s: created, its data is being copied; wait for it: `phonectl ops wait %s`", c.ID, id)
			return nil
		}
		a.sayf("%s: created; start it: `phonectl on %s`", phone.GetSpec().GetId(), phone.GetSpec().GetId())
		return nil
	})
}

// subject is the phone that a refusal is about: the one to be copied where that is in the way.
func (c *createCmd) subject(err error) string {
	if reason, _ := reasonOf(status.Convert(err)); c.CloneFrom != "" && reason != fault.PhoneExists {
		return c.CloneFrom
	}
	return c.ID
}

// spec is what the command line asks for.
func (c *createCmd) spec(a *app) *phonehostv1.PhoneSpec {
	memory := size(0) // as the other phone's
	switch {
	case c.Memory != nil:
		memory = *c.Memory
	case c.CloneFrom == "":
		memory = defaultMemory
	}
	spec := &phonehostv1.PhoneSpec{
		Id: c.ID, Image: c.Image, Profile: c.Profile, Vcpus: c.VCPUs, CpuWeight: c.CPUWeight,
		MemoryBytes: uint64(memory), DataBytes: uint64(c.Data), Display: c.Display.spec,
		Properties: c.Property, Labels: c.Label, Lease: c.lease(a.now()), Network: c.networking.spec(), AppList: c.AppList,
	}
	if c.RestartPolicy != nil {
		spec.RestartPolicy = restartPolicies[*c.RestartPolicy]
	}
	return spec
}
