package phone

import (
	"github.com/containerd/errdefs"

	"github.com/phonehost/phonehost/agent/fault"
	"github.com/phonehost/phonehost/agent/operation"
	"github.com/phonehost/phonehost/agent/store"
)

// SetAppLists puts up to MaxPhones phones on a list of apps, or takes them off theirs where the name is empty. Phones that are on another
// list refuse, unless move is set. Only the records change: whoever keeps the lists applies them. The errors are those of the phones, in
// their order; nil where the phone is on the list by now.
//
// Errors of a phone: ErrNotFound; faults with reason BUSY for one that is being deleted, and APP_LIST_TAKEN. Errors of the call, after which
// nothing has changed: ErrInvalidArgument; those of Config.CheckAppList.
func (s *Supervisor) SetAppLists(ids []string, name string, move bool, requestedBy string) ([]error, error) {
	if err := operation.CheckIDs(ids, MaxPhones); err != nil {
		return nil, err
	}
	return s.editPhones(ids, requestedBy, func(tx *store.Tx) error {
		return s.checkAppList(tx, name)
	}, func(_ *store.Tx, r *Record) ([]string, error) {
		have := r.Spec.AppList
		if have == name {
			return nil, nil
		}
		if have != "" && name != "" && !move {
			return nil, fault.New(errdefs.ErrFailedPrecondition, fault.AppListTaken, "phone %s is on the app list %q: a phone is on one list at most, and has to be moved", r.Spec.ID, have).
				With("app_list", have)
		}
		r.Spec.AppList = name
		return []string{"app_list"}, nil
	})
}

// checkAppList refuses a list that phones cannot be put on; none is always right.
func (s *Supervisor) checkAppList(tx *store.Tx, name string) error {
	if name == "" {
		return nil
	}
	if s.cfg.CheckAppList == nil {
		return NoSuchAppList(name)
	}
	return s.cfg.CheckAppList(tx, name)
}

// NoSuchAppList is the error for a name that no list has.
func NoSuchAppList(name string) error {
	return fault.New(errdefs.ErrNotFound, fault.NoSuchAppList, "no app list %q on this host", fault.Clip(name))
}

// AppListUsers names the phones that are on a list, in order, as a transaction sees them.
func AppListUsers(tx *store.Tx, name string) []string {
	var ids []string
	for e := range records.All(tx) {
		if e.Err == nil && e.Value.Spec.AppList == name {
			ids = append(ids, e.Key)
		}
	}
	return ids
}
