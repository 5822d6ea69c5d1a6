/* The two transforms of git-gru's codec: the one place where Python is the limit (docs/format.md, "Encodings").
 *
 *   split_plain(data, width, rotated, planes)         elements -> byte planes
 *   join_plain(planes, width, rotated, data)          its inverse
 *   split_delta(data, base, width, rotated, planes)   elements and their base -> byte planes of the grouped differences
 *   join_delta(planes, base, width, rotated, data)    its inverse
 *
 * `planes`: a tuple of `width` buffers of n bytes, least significant byte first; `data` and `base`: n little-endian elements.
 * Lengths are checked here, the GIL is released while computing, and numpy twins in transform.py give the same bytes.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#include <sys/mman.h>
#endif

#define MAX_WIDTH 8
#define HUGE_PAGE (1 << 21)
#define HEAP ((1 << 26) - HUGE_PAGE) /* less than the threshold above which memory comes from elsewhere */
#define LANES 4 /* quarters of a chunk, counted apart: one chain of counters waits for its own stores */

static inline uint64_t rotl(uint64_t x, int bits) {
    return ((x << 1) | (x >> (bits - 1))) & (~(uint64_t)0 >> (64 - bits));
}
static inline uint64_t rotr(uint64_t x, int bits) { return (x >> 1) | ((x & 1) << (bits - 1)); }

/* T is the unsigned element, W its width in bytes: constants, so that the compiler unrolls and vectorises each case. */
#define DEFINE(T, W)                                                                                                   \
    static inline T load_##W(const uint8_t *p) { T x; memcpy(&x, p, W); return x; }                                    \
    static void split_plain_##W(const uint8_t *restrict in, uint8_t *const *out, size_t n, int rotated) {              \
        uint8_t *restrict o[W];                                                                                        \
        for (int b = 0; b < W; b++) o[b] = out[b];                                                                     \
        for (size_t i = 0; i < n; i++) {                                                                               \
            T x = load_##W(in + i * W);                                                                                \
            if (rotated) x = (T)rotl(x, 8 * W);                                                                        \
            for (int b = 0; b < W; b++) o[b][i] = (uint8_t)(x >> (8 * b));                                             \
        }                                                                                                              \
    }                                                                                                                  \
    static void join_plain_##W(uint8_t *const *in, uint8_t *restrict out, size_t n, int rotated) {                     \
        const uint8_t *restrict p[W];                                                                                  \
        for (int b = 0; b < W; b++) p[b] = in[b];                                                                      \
        for (size_t i = 0; i < n; i++) {                                                                               \
            T x = 0;                                                                                                   \
            for (int b = 0; b < W; b++) x |= (T)((T)p[b][i] << (8 * b));                                               \
            if (rotated) x = (T)rotr(x, 8 * W);                                                                        \
            memcpy(out + i * W, &x, W);                                                                                \
        }                                                                                                              \
    }                                                                                                                  \
    static inline uint8_t key_##W(T base, int rotated) {                                                               \
        return (uint8_t)((rotated ? rotl(base, 8 * W) : base) >> (8 * (W - 1)));                                       \
    }                                                                                                                  \
    static void starts_##W(const uint8_t *base, size_t n, int rotated, uint32_t start[LANES][256]) {                   \
        size_t lane = n / LANES;                                                                                       \
        uint32_t sum = 0;                                                                                              \
        memset(start, 0, LANES * sizeof start[0]);                                                                     \
        for (size_t i = 0; i < lane; i++)                                                                              \
            for (size_t l = 0; l < LANES; l++) start[l][key_##W(load_##W(base + (l * lane + i) * W), rotated)]++;      \
        for (size_t i = LANES * lane; i < n; i++) start[LANES - 1][key_##W(load_##W(base + i * W), rotated)]++;        \
        for (int k = 0; k < 256; k++)                                                                                  \
            for (int l = 0; l < LANES; l++) {                                                                          \
                uint32_t count = start[l][k];                                                                          \
                start[l][k] = sum;                                                                                     \
                sum += count;                                                                                          \
            }                                                                                                          \
    }                                                                                                                  \
    static inline void put_##W(const uint8_t *in, const uint8_t *base, T *restrict grouped, uint32_t *restrict start,  \
                               int rotated) {                                                                          \
        T from = load_##W(base);                                                                                       \
        T d = (T)(load_##W(in) - from);                                                                                \
        grouped[start[key_##W(from, rotated)]++] = (T)((T)(d << 1) ^ (T)(0 - (T)(d >> (8 * W - 1))));                  \
    }                                                                                                                  \
    static inline void take_##W(const T *restrict grouped, const uint8_t *base, uint8_t *out,                          \
                                uint32_t *restrict start, int rotated) {                                               \
        T from = load_##W(base), z = grouped[start[key_##W(from, rotated)]++];                                         \
        T x = (T)(from + (T)((z >> 1) ^ (T)(0 - (T)(z & 1))));                                                         \
        memcpy(out, &x, W);                                                                                            \
    }                                                                                                                  \
    static void split_delta_##W(const uint8_t *in, const uint8_t *base, void *grouped, uint8_t *const *out, size_t n,  \
                                int rotated) {                                                                         \
        uint32_t start[LANES][256];                                                                                    \
        size_t lane = n / LANES;                                                                                       \
        starts_##W(base, n, rotated, start);                                                                           \
        for (size_t i = 0; i < lane; i++)                                                                              \
            for (size_t l = 0; l < LANES; l++)                                                                         \
                put_##W(in + (l * lane + i) * W, base + (l * lane + i) * W, grouped, start[l], rotated);               \
        for (size_t i = LANES * lane; i < n; i++) put_##W(in + i * W, base + i * W, grouped, start[LANES - 1], rotated); \
        split_plain_##W(grouped, out, n, 0);                                                                           \
    }                                                                                                                  \
    static void join_delta_##W(uint8_t *const *in, void *grouped, const uint8_t *base, uint8_t *out, size_t n,         \
                               int rotated) {                                                                          \
        uint32_t start[LANES][256];                                                                                    \
        size_t lane = n / LANES;                                                                                       \
        join_plain_##W(in, grouped, n, 0);                                                                             \
        starts_##W(base, n, rotated, start);                                                                           \
        for (size_t i = 0; i < lane; i++)                                                                              \
            for (size_t l = 0; l < LANES; l++)                                                                         \
                take_##W(grouped, base + (l * lane + i) * W, out + (l * lane + i) * W, start[l], rotated);             \
        for (size_t i = LANES * lane; i < n; i++)                                                                      \
            take_##W(grouped, base + i * W, out + i * W, start[LANES - 1], rotated);                                   \
    }

DEFINE(uint8_t, 1)
DEFINE(uint16_t, 2)
DEFINE(uint32_t, 4)
DEFINE(uint64_t, 8)

#define PICK(NAME, ...)                                                                                                \
    switch (width) {                                                                                                   \
    case 1: NAME##_1(__VA_ARGS__); break;                                                                              \
    case 2: NAME##_2(__VA_ARGS__); break;                                                                              \
    case 4: NAME##_4(__VA_ARGS__); break;                                                                              \
    default: NAME##_8(__VA_ARGS__); break;                                                                             \
    }

/* One call: `data` (and `base`) beside a tuple of planes. `split` says which of the two is written. */
static PyObject *transform(PyObject *data, PyObject *base, PyObject *planes, int width, int rotated, int split) {
    Py_buffer whole = {0}, from = {0}, part[MAX_WIDTH];
    uint8_t *plane[MAX_WIDTH];
    void *grouped = NULL; /* differences in the order of their groups, between the two passes over them */
    int taken = 0, bad = 0;
    if (!(width == 1 || width == 2 || width == 4 || width == 8) || !PyTuple_Check(planes) || PyTuple_Size(planes) != width) {
        PyErr_SetString(PyExc_ValueError, "width must be 1, 2, 4 or 8, and planes a tuple of so many buffers");
        return NULL;
    }
    if (PyObject_GetBuffer(data, &whole, split ? PyBUF_SIMPLE : PyBUF_WRITABLE)) return NULL;
    if (base && PyObject_GetBuffer(base, &from, PyBUF_SIMPLE)) {
        PyBuffer_Release(&whole);
        return NULL;
    }
    size_t n = (size_t)whole.len / (size_t)width;
    bad = n > UINT32_MAX || n * (size_t)width != (size_t)whole.len || (base && from.len != whole.len);
    while (!bad && taken < width) {
        Py_buffer *view = &part[taken];
        if (PyObject_GetBuffer(PyTuple_GetItem(planes, taken), view, split ? PyBUF_WRITABLE : PyBUF_SIMPLE)) break;
        plane[taken++] = view->buf;
        bad = (size_t)view->len != n;
    }
    if (!bad && taken == width && base && !(grouped = malloc(n * (size_t)width + 1))) PyErr_NoMemory();
    else if (!bad && taken == width) {
        Py_BEGIN_ALLOW_THREADS
        if (split && base) { PICK(split_delta, whole.buf, from.buf, grouped, plane, n, rotated) }
        else if (split) { PICK(split_plain, whole.buf, plane, n, rotated) }
        else if (base) { PICK(join_delta, plane, grouped, from.buf, whole.buf, n, rotated) }
        else { PICK(join_plain, plane, whole.buf, n, rotated) }
        Py_END_ALLOW_THREADS
    } else if (bad) {
        PyErr_SetString(PyExc_ValueError, "data, base and planes do not fit each other");
    }
    free(grouped);
    while (taken > 0) PyBuffer_Release(&part[--taken]);
    if (base) PyBuffer_Release(&from);
    PyBuffer_Release(&whole);
    if (PyErr_Occurred()) return NULL;
    Py_RETURN_NONE;
}

#define METHOD(NAME, FORMAT, SPLIT, ...)                                                                               \
    static PyObject *NAME(PyObject *self, PyObject *args) {                                                            \
        PyObject *data, *planes, *base = NULL;                                                                         \
        int width, rotated;                                                                                            \
        if (!PyArg_ParseTuple(args, FORMAT, __VA_ARGS__)) return NULL;                                                 \
        return transform(data, base, planes, width, rotated, SPLIT);                                                   \
    }

METHOD(split_plain, "OipO", 1, &data, &width, &rotated, &planes)
METHOD(join_plain, "OipO", 0, &planes, &width, &rotated, &data)
METHOD(split_delta, "OOipO", 1, &data, &base, &width, &rotated, &planes)
METHOD(join_delta, "OOipO", 0, &planes, &base, &width, &rotated, &data)
/* Has the allocator keep freed memory, in one heap whose first part may be of huge pages. Its default gives chunk-sized buffers
 * back to the system each time, and to be handed fresh pages for the next costs more than the transforms do. */
static PyObject *keep_memory(PyObject *self, PyObject *args) {
#ifdef __GLIBC__
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 1 << 26);
    mallopt(M_TRIM_THRESHOLD, 1 << 27);
#ifdef MADV_HUGEPAGE
    char *heap = malloc(HEAP);
    if (heap) {
        char *first = (char *)(((uintptr_t)heap + HUGE_PAGE - 1) & ~(uintptr_t)(HUGE_PAGE - 1));
        madvise(first, HEAP - HUGE_PAGE, MADV_HUGEPAGE); /* where it is refused, nothing is lost */
        free(heap);
    }
#endif
#endif
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"split_plain", split_plain, METH_VARARGS, "split_plain(data, width, rotated, planes)"},
    {"join_plain", join_plain, METH_VARARGS, "join_plain(planes, width, rotated, data)"},
    {"split_delta", split_delta, METH_VARARGS, "split_delta(data, base, width, rotated, planes)"},
    {"join_delta", join_delta, METH_VARARGS, "join_delta(planes, base, width, rotated, data)"},
    {"keep_memory", keep_memory, METH_NOARGS, "keep_memory()"},
    {NULL, NULL, 0, NULL},
};
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_transform", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__transform(void) {
#if PY_BIG_ENDIAN
    PyErr_SetString(PyExc_ImportError, "the C transforms are for little-endian machines");
    return NULL;
#else
    return PyModule_Create(&module);
#endif
}
