package phone

// State is what a phone is doing, in short.
type State struct {
	// ID is the phone's. Exists tells whether the host has it; otherwise nothing else is set.
	ID     string
	Exists bool
	// Status, Reason, QueuePosition and Revision are those of a Snapshot.
	Status        Status
	Reason        string
	QueuePosition int
	Revision      uint64
	// Freezes are the reasons for which it is frozen.
	Freezes []FreezeReason
	// Hold is the reason of its hold, or empty.
	Hold string
	// OperationID is the operation that is under way, or empty.
	OperationID string
}

// Statuses returns what phones are doing, one for every id in order, from memory alone. A phone whose record cannot be read is UNKNOWN.
func (s *Supervisor) Statuses(ids []string) []State {
	states := make([]State, 0, len(ids))
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range ids {
		if c := s.phones[id]; c != nil {
			states = append(states, s.view(c).state())
			continue
		}
		st := State{ID: id}
		if err := s.broken[id]; err != nil {
			st.Exists, st.Reason = true, err.Error()
		}
		states = append(states, st)
	}
	return states
}

// state shortens a snapshot.
func (s Snapshot) state() State {
	st := State{
		ID: s.Record.Spec.ID, Exists: true, Status: s.Status, Reason: s.Reason, QueuePosition: s.QueuePosition, Revision: s.Revision,
		OperationID: s.OperationID(),
	}
	if s.Record.frozen() {
		st.Freezes = s.Record.freezeReasons()
	}
	if s.Record.Hold != nil {
		st.Hold = s.Record.Hold.Reason
	}
	return st
}
