// Reads addresses, shapes and dtypes of many tensors in one call.
//
// The functions that read one tensor are torch's C interface (torch/csrc/inductor/aoti_torch/c/shim.h), which stays the
// same from version to version, and which tensors.py fills in. Older versions have no `layout`; tensors.py asks Python
// there. None of them changes a tensor or its count of references.

#include <cstdint>
#include <cstring>

namespace {

typedef const void *Handle;  // where a tensor of C++ is, in an object of Python
template <typename T>
using Get = int32_t (*)(Handle, T *);  // 0 where it succeeds

// Python fills it in once, in this order.
struct Torch {
    const char *(*item)(void *list, intptr_t i);  // PyList_GetItem
    int64_t type_at, handle_at;                   // bytes into an object: its type; the handle
    int32_t (*strided)(), (*cpu)();               // the layout of dense tensors; a type of device
    Get<int32_t> layout, dtype, device_type;
    Get<int64_t> dim, storage_bytes, storage_offset;
    Get<const int64_t *> sizes, strides;
    Get<const void *> data;
    bool (*is_neg)(Handle);
};

// The look of a tensor: numbers that don't change as long as only its elements do.
constexpr int FIXED = 8, DIMS = 8;
struct Look {
    int64_t object, type, tensor, kind, data, storage_bytes, storage_offset, dim;
    int64_t shape[2 * DIMS];  // sizes, then strides
    int64_t length() const { return FIXED + 2 * dim; }
};

int64_t word(const char *at) {
    int64_t x;
    std::memcpy(&x, at, sizeof x);
    return x;
}

// Whether a tensor has an address at all: others fail where they are asked for it, and some write about it.
bool strided(const Torch &torch, const char *object) {
    int32_t layout;
    return !torch.layout || (!torch.layout(object + torch.handle_at, &layout) && layout == torch.strided());
}

// Whether a strided tensor can be read; then it may still lack its memory.
bool read(const Torch &torch, const char *object, Look &to) {
    const Handle x = object + torch.handle_at;
    int32_t dtype;
    const int64_t *sizes, *strides;
    const void *data;
    if (torch.dtype(x, &dtype)) return false;
    if (torch.dim(x, &to.dim) || to.dim > DIMS || torch.sizes(x, &sizes) || torch.strides(x, &strides)) return false;
    if (torch.storage_bytes(x, &to.storage_bytes) || torch.storage_offset(x, &to.storage_offset)) return false;
    if (torch.data(x, &data)) return false;
    to.object = int64_t(object);
    to.type = word(object + torch.type_at);
    to.tensor = word(object + torch.handle_at);
    to.kind = int64_t(dtype) * 2 + torch.is_neg(x);
    to.data = int64_t(data);
    std::memcpy(to.shape, sizes, to.dim * sizeof *sizes);
    std::memcpy(to.shape + to.dim, strides, to.dim * sizeof *strides);
    return true;
}

bool on_cpu(const Torch &torch, const char *object) {
    int32_t type;
    return !torch.device_type(object + torch.handle_at, &type) && type == torch.cpu();
}

int64_t elements(const Look &x) {
    int64_t n = 1;
    for (int64_t i = 0; i < x.dim; i++) n *= x.shape[i];
    return n;
}

bool contiguous(const Look &x) {
    int64_t stride = 1;
    for (int64_t i = x.dim - 1; i >= 0; i--) {
        if (x.shape[i] != 1 && x.shape[x.dim + i] != stride) return false;
        stride *= x.shape[i];
    }
    return true;
}

}  // namespace

extern "C" {

int64_t max_numbers() { return FIXED + 2 * DIMS; }

// The looks of the tensors in a list of Python, one after another; returns how many numbers they are together, or -1
// where one of them can't be read, or has elements but no memory.
int64_t take(const Torch *torch, void *list, int64_t count, int64_t *to) {
    const int64_t *const begin = to;
    for (int64_t j = 0; j < count; j++) {
        const char *const object = torch->item(list, j);
        Look x;
        if (!strided(*torch, object) || !read(*torch, object, x) || (!x.data && elements(x))) return -1;
        std::memcpy(to, &x, x.length() * sizeof *to);
        to += x.length();
    }
    return to - begin;
}

// Whether the list has the same tensors as the one from which `kept` was taken, seen as they were.
int holds(const Torch *torch, void *list, int64_t count, const int64_t *kept) {
    for (int64_t j = 0; j < count; j++) {
        const char *const object = torch->item(list, j);
        // in this order: what is still the same tensor is strided; at the same address it is on the same device
        if (int64_t(object) != kept[0] || word(object + torch->type_at) != kept[1]) return 0;
        if (word(object + torch->handle_at) != kept[2]) return 0;
        Look x;
        if (!read(*torch, object, x) || x.dim != kept[FIXED - 1]) return 0;
        if (std::memcmp(&x, kept, x.length() * sizeof *kept)) return 0;
        kept += x.length();
    }
    return 1;
}

// Whether each of the list is of one of two types, in CPU memory, of the kind and the size of an element of `like`,
// contiguous, of its size in `sizes`, and all there in its storage. Writes the addresses, `step` numbers apart.
int plain(const Torch *torch, void *list, int64_t count, const int64_t *types, const int64_t *like, const int64_t *sizes,
          int64_t *to, int64_t step) {
    Look model;
    std::memcpy(&model, like, FIXED * sizeof *like);
    for (int64_t j = 0; j < count; j++, to += step) {
        const char *const object = torch->item(list, j);
        const int64_t type = word(object + torch->type_at);
        Look x;
        if ((type != types[0] && type != types[1]) || !strided(*torch, object) || !on_cpu(*torch, object)) return 0;
        if (!read(*torch, object, x) || x.kind != model.kind) return 0;
        if (x.dim != *sizes || std::memcmp(x.shape, sizes + 1, x.dim * sizeof *sizes) || !contiguous(x)) return 0;
        const int64_t n = elements(x), bytes = model.storage_bytes;  // of its one element
        if (n && (!x.data || x.storage_bytes < (x.storage_offset + n) * bytes)) return 0;
        *to = x.data;
        sizes += 1 + x.dim;
    }
    return 1;
}

}  // extern "C"
