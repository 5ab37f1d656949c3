package access_test

import (
	"crypto/x509"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"github.com/phonehost/phonehost/agent/access"
)

func TestParseURI(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", access.MaxNameLength)
	tests := []struct {
		name, uri, want string // want "" for an error
	}{
		{"agent", "phonehost://agent/shelf-7", "agent/shelf-7"},
		{"client", "phonehost://client/fleet", "client/fleet"},
		{"digit first and dots", "phonehost://agent/0.a-b", "agent/0.a-b"},
		{"longest name", "phonehost://agent/" + long, "agent/" + long},
		{"name too long", "phonehost://agent/" + long + "a", ""},
		{"no name", "phonehost://agent/", ""},
		{"no slash", "phonehost://agent", ""},
		{"other kind", "phonehost://uid/0", ""},
		{"other scheme", "spiffe://agent/a", ""},
		{"capitals", "phonehost://agent/Shelf", ""},
		{"kind in capitals", "phonehost://Agent/shelf", ""},
		{"dot first", "phonehost://agent/.a", ""},
		{"dash first", "phonehost://agent/-a", ""},
		{"second part", "phonehost://agent/a/b", ""},
		{"query", "phonehost://agent/a?x=1", ""},
		{"fragment", "phonehost://agent/a#x", ""},
		{"port", "phonehost://agent:1/a", ""},
		{"user", "phonehost://u@agent/a", ""},
		{"escape", "phonehost://agent/%61", ""},
		{"space", "phonehost://agent/a ", ""},
		{"empty", "", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := access.ParseURI(tt.uri)
			if tt.want == "" {
				if !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Fatalf("ParseURI(%q) = %v, %v; want an invalid argument", tt.uri, got, err)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Fatalf("ParseURI(%q) = %v, %v; want %s", tt.uri, got, err, tt.want)
			}
			if got.URI().String() != tt.uri {
				t.Errorf("URI() = %s, want %s", got.URI(), tt.uri)
			}
		})
	}
}

func TestFromCertificate(t *testing.T) {
	t.Parallel()
	parse := func(uris ...string) *x509.Certificate {
		cert := &x509.Certificate{}
		for _, s := range uris {
			u, err := url.Parse(s)
			if err != nil {
				t.Fatal(err)
			}
			cert.URIs = append(cert.URIs, u)
		}
		return cert
	}
	tests := []struct {
		name string
		cert *x509.Certificate
		want string
	}{
		{"one", parse("phonehost://client/fleet"), "client/fleet"},
		{"none", parse(), ""},
		{"two", parse("phonehost://client/fleet", "phonehost://client/other"), ""},
		{"two of which one is foreign", parse("phonehost://client/fleet", "https://example.com"), ""},
		{"foreign", parse("https://client/fleet"), ""},
		{"escaped name", parse("phonehost://client/fl%65et"), ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := access.FromCertificate(tt.cert)
			if tt.want == "" {
				if !errors.Is(err, errdefs.ErrInvalidArgument) {
					t.Fatalf("FromCertificate = %v, %v; want an invalid argument", got, err)
				}
				return
			}
			if err != nil || got.String() != tt.want {
				t.Fatalf("FromCertificate = %v, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func FuzzParseURI(f *testing.F) {
	for _, s := range []string{"phonehost://agent/a", "phonehost://client/b.c-d", "phonehost://agent/%61", "", "phonehost:///", "phonehost://agent/a/"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		id, err := access.ParseURI(s)
		if err != nil {
			return
		}
		if !access.ValidName(id.Name) || id.Kind != access.KindAgent && id.Kind != access.KindClient {
			t.Fatalf("ParseURI(%q) = %+v", s, id)
		}
		if got := id.URI().String(); got != s {
			t.Fatalf("ParseURI(%q).URI() = %q", s, got)
		}
	})
}

func TestRoles(t *testing.T) {
	t.Parallel()
	roles := access.Roles{
		Clients: map[string]access.Role{"fleet": access.RoleOperator},
		Users:   map[uint32]access.Role{1000: access.RoleViewer},
		Groups:  map[uint32]access.Role{50: access.RoleViewer, 60: access.RoleAdmin},
	}
	client := func(name string) access.Identity { return access.Identity{Kind: access.KindClient, Name: name} }
	uid := func(uid uint32, gids ...uint32) access.Identity {
		return access.Identity{Kind: access.KindUID, UID: uid, GIDs: gids}
	}
	tests := []struct {
		name string
		id   access.Identity
		want access.Role
	}{
		{"client in the table", client("fleet"), access.RoleOperator},
		{"client not in the table", client("other"), access.RoleNone},
		{"agent of a client's name", access.Identity{Kind: access.KindAgent, Name: "fleet"}, access.RoleNone},
		{"root", uid(0), access.RoleAdmin},
		{"user in the table", uid(1000, 1000), access.RoleViewer},
		{"user not in the table", uid(1001, 1001), access.RoleNone},
		{"member of a group", uid(1001, 50, 1001), access.RoleViewer},
		{"the highest counts", uid(1000, 50, 60), access.RoleAdmin},
		{"a client is in no group", access.Identity{Kind: access.KindClient, Name: "other", GIDs: []uint32{60}}, access.RoleNone},
		{"nobody", access.Identity{}, access.RoleNone},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if got := roles.Of(tt.id); got != tt.want {
				t.Errorf("Of(%+v) = %v, want %v", tt.id, got, tt.want)
			}
			if got := (access.Roles{}).Of(tt.id); got != access.RoleNone && tt.id.String() != "uid/0" {
				t.Errorf("an empty table gives %v the role %v", tt.id, got)
			}
		})
	}
}

func TestParseRoles(t *testing.T) {
	t.Parallel()
	got, unknown, err := access.ParseRoles(map[string]string{
		"client/fleet": "admin", "user/0": "viewer", "user/root": "operator", "group/12345": "viewer",
		"group/no-such-group-here": "admin", "user/no-such-user-here": "viewer",
	})
	if err != nil {
		t.Fatal(err)
	}
	want := access.Roles{
		Clients: map[string]access.Role{"fleet": access.RoleAdmin},
		Users:   map[uint32]access.Role{0: access.RoleOperator}, // root is 0, and the higher of the two entries counts
		Groups:  map[uint32]access.Role{12345: access.RoleViewer},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("roles (-want +got):\n%s", diff)
	}
	if !slices.Equal(unknown, []string{"group/no-such-group-here", "user/no-such-user-here"}) {
		t.Errorf("unknown = %q", unknown)
	}
	for key, value := range map[string]string{
		"client/fleet": "root", "client/Fleet": "admin", "fleet": "admin", "agent/a": "viewer", "group/": "admin",
		"client/tv": "endpoint", "client/nobody": "none",
	} {
		if _, _, err := access.ParseRoles(map[string]string{key: value}); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), key) {
			t.Errorf("ParseRoles(%q = %q) = %v; want an invalid argument that names the entry", key, value, err)
		}
	}
}
