package operation

import (
	"slices"

	"github.com/phonehost/phonehost/agent/fault"
)

// MaxRequestID is the most characters of a request id.
const MaxRequestID = 64

// CheckIDs refuses a list of phones that no request may name: none, more than most, or one of them twice.
func CheckIDs(ids []string, most int) error {
	if len(ids) == 0 || len(ids) > most {
		return fault.Field("phone_ids", "%d ids must be 1..%d", len(ids), most)
	}
	sorted := slices.Sorted(slices.Values(ids))
	for i := 1; i < len(sorted); i++ {
		if sorted[i] == sorted[i-1] {
			return fault.Field("phone_ids", "%q is there twice", fault.Clip(sorted[i]))
		}
	}
	return nil
}

// CheckRequestID refuses a request id that is too long.
func CheckRequestID(id string) error {
	if len(id) > MaxRequestID {
		return fault.Field("request_id", "%d characters are more than %d", len(id), MaxRequestID)
	}
	return nil
}
