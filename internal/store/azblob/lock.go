package azblob

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"

	"holdfast/internal/errs"
	"holdfast/internal/store"
)

var _ store.Locker = (*Store)(nil)

const remedyLocks = "use a blob container made with version-level immutability support: az storage container-rm create --enable-vlw"

// modeOf and settingOf translate the modes. The service's third mode, mutable,
// is that of no policy.
func modeOf(m blob.ImmutabilityPolicyMode) (store.LockMode, bool) {
	switch m {
	case blob.ImmutabilityPolicyModeUnlocked:
		return store.LockGovernance, true
	case blob.ImmutabilityPolicyModeLocked:
		return store.LockCompliance, true
	}
	return "", false
}

func settingOf(m store.LockMode) *blob.ImmutabilityPolicySetting {
	setting := blob.ImmutabilityPolicySettingUnlocked
	if m == store.LockCompliance {
		setting = blob.ImmutabilityPolicySettingLocked
	}
	return &setting
}

// wholeSeconds rounds up to what the service keeps.
func wholeSeconds(t time.Time) time.Time {
	whole := t.UTC().Truncate(time.Second)
	if whole.Before(t) {
		whole = whole.Add(time.Second)
	}
	return whole
}

func checkLock(op, key string, lock store.Lock) error {
	if err := store.CheckLock(op, key, lock); err != nil {
		return err
	}
	if !lock.Until.After(time.Now()) {
		return errs.E(op, errs.Invalid, key, fmt.Errorf("the lock ends at %s, which is over", lock.Until.Format(time.RFC3339)))
	}
	return nil
}

// CreateLocked implements store.Locker with one request.
func (s *Store) CreateLocked(ctx context.Context, key string, body []byte, lock store.Lock) error {
	const op = "azblob.CreateLocked"
	if err := checkLock(op, key, lock); err != nil {
		return err
	}
	until := wholeSeconds(lock.Until)
	return s.create(ctx, op, key, body, blockblob.UploadOptions{
		ImmutabilityPolicyMode: settingOf(lock.Mode), ImmutabilityPolicyExpiryTime: &until,
	})
}

// ReadLock implements store.Locker with one request.
func (s *Store) ReadLock(ctx context.Context, key string) (store.Lock, error) {
	const op = "azblob.ReadLock"
	props, err := s.properties(ctx, op, key)
	if err != nil {
		return store.Lock{}, err
	}
	return lockOf(props), nil
}

func (s *Store) properties(ctx context.Context, op, key string) (blob.GetPropertiesResponse, error) {
	if err := store.CheckKey(op, key); err != nil {
		return blob.GetPropertiesResponse{}, err
	}
	if err := store.Canceled(ctx, op, key); err != nil {
		return blob.GetPropertiesResponse{}, err
	}
	props, err := s.blob(key).GetProperties(ctx, nil)
	if err != nil {
		return props, s.explain(ctx, op, key, err)
	}
	return props, nil
}

func lockOf(props blob.GetPropertiesResponse) store.Lock {
	if props.ImmutabilityPolicyMode == nil || props.ImmutabilityPolicyExpiresOn == nil {
		return store.Lock{}
	}
	mode, ok := modeOf(*props.ImmutabilityPolicyMode)
	if !ok {
		return store.Lock{}
	}
	return store.Lock{Mode: mode, Until: props.ImmutabilityPolicyExpiresOn.UTC()}
}

// ExtendLock implements store.Locker with two requests, or one when the lock
// holds as long as asked for.
func (s *Store) ExtendLock(ctx context.Context, key string, lock store.Lock) error {
	const op = "azblob.ExtendLock"
	if err := store.CheckLock(op, key, lock); err != nil {
		return err
	}
	now, err := s.ReadLock(ctx, key)
	if err != nil {
		return err
	}
	want := store.Lock{Mode: now.Mode, Until: wholeSeconds(lock.Until)}
	if now.IsZero() {
		want.Mode = lock.Mode
	}
	if !want.Until.After(now.Until) {
		return nil
	}
	if err := checkLock(op, key, want); err != nil {
		return err
	}
	_, err = s.blob(key).SetImmutabilityPolicy(ctx, want.Until, &blob.SetImmutabilityPolicyOptions{Mode: settingOf(want.Mode)})
	if bloberror.HasCode(err, bloberror.BlobImmutableDueToPolicy) {
		// Somebody locked it for longer since we looked; the next try sees that.
		return errs.E(op, errs.Transient, key, summary(err))
	}
	if err != nil {
		failure := s.explain(ctx, op, key, err)
		if errs.Is(failure, errs.Invalid) {
			return errs.E(op, errs.Invalid, key, failure).WithRemedy(remedyLocks)
		}
		return failure
	}
	return nil
}

// deleteVersion deletes where versions are kept and may be locked. Deleting a
// name there is allowed even while its content is locked: it hides the object
// and frees nothing. So the lock is looked at first, and the version that
// stays behind is deleted by its own name, which the service refuses while a
// lock holds.
func (s *Store) deleteVersion(ctx context.Context, op, key string) error {
	props, err := s.properties(ctx, op, key)
	if errs.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	if props.Date != nil {
		now = *props.Date // the service's clock decides
	}
	if lock := lockOf(props); lock.Until.After(now) {
		return errs.E(op, errs.Denied, key, fmt.Errorf("locked (%s) until %s", lock.Mode, lock.Until.Format(time.RFC3339))).
			WithRemedy("wait for the end of the lock")
	}
	if props.LegalHold != nil && *props.LegalHold {
		return errs.New(op, errs.Denied, key, "under legal hold").WithRemedy("end the legal hold in Azure")
	}
	if props.ETag == nil || props.VersionID == nil {
		return errs.E(op, errs.Invalid, key, errors.New("the service names no version of it")).WithRemedy(remedyLocks)
	}
	_, err = s.blob(key).Delete(ctx, &blob.DeleteOptions{AccessConditions: &blob.AccessConditions{
		ModifiedAccessConditions: &blob.ModifiedAccessConditions{IfMatch: props.ETag},
	}})
	switch {
	case bloberror.HasCode(err, bloberror.ConditionNotMet):
		return errs.New(op, errs.Transient, key, "replaced while it was being deleted")
	case err != nil && !bloberror.HasCode(err, bloberror.BlobNotFound):
		return s.explain(ctx, op, key, err)
	}
	version, err := s.blob(key).WithVersionID(*props.VersionID)
	if err != nil {
		return errs.E(op, errs.Internal, key, summary(err))
	}
	if _, err = version.Delete(ctx, nil); err != nil && !bloberror.HasCode(err, bloberror.BlobNotFound) {
		return s.explain(ctx, op, key, err)
	}
	return nil
}
