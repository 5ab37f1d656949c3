package access

import (
	"fmt"
	"os/user"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

// Role is what an identity may do. Roles are ordered: each may do what those before it may.
type Role int

const (
	// RoleNone may do nothing.
	RoleNone Role = iota
	// RoleEndpoint is an end user with a token for one stream; no RPC of this version takes it.
	RoleEndpoint
	// RoleViewer reads: phones, operations, events, images, the host.
	RoleViewer
	// RoleOperator also powers, resets, streams, touches and reads logs.
	RoleOperator
	// RoleAdmin may do everything.
	RoleAdmin
)

var roleNames = [...]string{"none", "endpoint", "viewer", "operator", "admin"}

// String returns the role's name in the configuration.
func (r Role) String() string {
	if r < 0 || int(r) >= len(roleNames) {
		return "role(" + strconv.Itoa(int(r)) + ")"
	}
	return roleNames[r]
}

// ParseRole reads a role that can be given to an identity: "viewer", "operator" or "admin". The error is of class
// errdefs.ErrInvalidArgument.
func ParseRole(s string) (Role, error) {
	for _, r := range []Role{RoleViewer, RoleOperator, RoleAdmin} {
		if s == r.String() {
			return r, nil
		}
	}
	return RoleNone, fmt.Errorf("role %q: want viewer, operator or admin: %w", s, errdefs.ErrInvalidArgument)
}

// Roles says which role each identity has. The zero value knows root only. It must not change after its first use.
type Roles struct {
	// Clients maps the NAME of a client certificate to its role.
	Clients map[string]Role
	// Users maps a user id of this host to its role. Root is always RoleAdmin.
	Users map[uint32]Role
	// Groups maps a group id of this host to the role of its members.
	Groups map[uint32]Role
}

// Of returns the role of an identity: the highest that the table gives it. An agent never has a role.
func (r Roles) Of(id Identity) Role {
	switch id.Kind {
	case KindClient:
		return r.Clients[id.Name]
	case KindUID:
		if id.UID == 0 {
			return RoleAdmin
		}
		role := r.Users[id.UID]
		for _, gid := range id.GIDs {
			role = max(role, r.Groups[gid])
		}
		return role
	default:
		return RoleNone
	}
}

// ParseRoles reads the role table of a configuration: keys "client/NAME", "user/NAME_OR_UID" and "group/NAME_OR_GID", values
// as ParseRole reads them. Users and groups that this host does not know are left out and returned in unknown, sorted, so
// that the caller can warn of them. Other errors are of class errdefs.ErrInvalidArgument and name the entry.
func ParseRoles(table map[string]string) (roles Roles, unknown []string, err error) {
	roles = Roles{Clients: map[string]Role{}, Users: map[uint32]Role{}, Groups: map[uint32]Role{}}
	for key, value := range table {
		role, err := ParseRole(value)
		if err != nil {
			return Roles{}, nil, fmt.Errorf("role of %q: %w", key, err)
		}
		known, err := roles.set(key, role)
		if err != nil {
			return Roles{}, nil, fmt.Errorf("role of %q: %w", key, err)
		}
		if !known {
			unknown = append(unknown, key)
		}
	}
	slices.Sort(unknown)
	return roles, unknown, nil
}

// set enters one line of the table; known is false for a user or a group that this host does not have.
func (r Roles) set(key string, role Role) (known bool, err error) {
	kind, name, _ := strings.Cut(key, "/")
	switch kind {
	case "client":
		if !ValidName(name) {
			return false, fmt.Errorf("client name must match [a-z0-9]([a-z0-9.-]{0,62}): %w", errdefs.ErrInvalidArgument)
		}
		r.Clients[name] = role
		return true, nil
	case "user":
		return setUnix(r.Users, name, role, func() (string, error) {
			u, err := user.Lookup(name)
			if err != nil {
				return "", err
			}
			return u.Uid, nil
		})
	case "group":
		return setUnix(r.Groups, name, role, func() (string, error) {
			g, err := user.LookupGroup(name)
			if err != nil {
				return "", err
			}
			return g.Gid, nil
		})
	default:
		return false, fmt.Errorf("want client/NAME, user/NAME or group/NAME: %w", errdefs.ErrInvalidArgument)
	}
}

// setUnix enters a user or group that is given by number, or by a name that lookup knows.
func setUnix(ids map[uint32]Role, name string, role Role, lookup func() (string, error)) (known bool, err error) {
	if name == "" {
		return false, fmt.Errorf("name is missing: %w", errdefs.ErrInvalidArgument)
	}
	id, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		number, err := lookup()
		if err != nil {
			return false, nil
		}
		if id, err = strconv.ParseUint(number, 10, 32); err != nil {
			return false, fmt.Errorf("id of %q: %w", name, err)
		}
	}
	ids[uint32(id)] = max(ids[uint32(id)], role)
	return true, nil
}
