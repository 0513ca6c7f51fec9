/* What processors.encoding gives of an event, made in one go: its own columns in Postgres' binary format for COPY, and
 * the beginning of its status record. Bytes in network order; columns of events are described there.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#define UUID_BYTES 16
#define UUID_CHARACTERS 36
#define FIXED_BYTES (8 + 12 + 12 + 3 * 20 + 12) /* partition, two offsets, three UUIDs, a time; each with its length */
#define JSONB_VERSION 1
#define COLUMNS_BEHIND 6 /* of any length: key, four participants, data */

static const char DATA_NAME[] = "\"event_data\":";
static const char AFTER_NAMES[] = "\"event_timestamp\":";
static const char BEGIN_OF_NAMES[] = "{\"id\":\"";

enum { ID, FINGERPRINT, PROGRAM, KEY, TIMESTAMP, EXTERNAL, PARTICIPANT, RECIPIENT_EXTERNAL, RECIPIENT, RECORD, ATTRIBUTES };

static const char *const ATTRIBUTE_NAMES[ATTRIBUTES] = {
    "id",          "fingerprint",    "program",               "idempotency_key", "event_timestamp",
    "external_id", "participant_id", "recipient_external_id", "recipient_id",    "record",
};

static PyObject *attribute_names[ATTRIBUTES];

typedef struct {
    const char *at;
    Py_ssize_t bytes; /* -1: NULL */
} Span;

/* -- out */

static char *put(char *to, const void *from, Py_ssize_t bytes)
{
    memcpy(to, from, (size_t)bytes);
    return to + bytes;
}

static char *put_int(char *to, uint64_t value, int bytes)
{
    for (int i = bytes - 1; i >= 0; i--)
        *to++ = (char)(value >> 8 * i & 0xFF);
    return to;
}

static char *put_int8(char *to, int64_t value)
{
    return put_int(put_int(to, 8, 4), (uint64_t)value, 8);
}

static char *put_span(char *to, Span span)
{
    to = put_int(to, (uint64_t)span.bytes, 4); /* of NULL -1, and nothing behind it */
    return span.bytes < 0 ? to : put(to, span.at, span.bytes);
}

static char *put_hex(char *to, const uint8_t *from, int bytes)
{
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < bytes; i++) {
        *to++ = digits[from[i] >> 4];
        *to++ = digits[from[i] & 0xF];
    }
    return to;
}

static char *put_uuid_text(char *to, const uint8_t *id)
{
    static const int groups[] = {4, 2, 2, 2, 6};
    for (int i = 0; i < 5; i++) {
        if (i > 0)
            *to++ = '-';
        to = put_hex(to, id, groups[i]);
        id += groups[i];
    }
    return to;
}

/* -- in */

static int digit_of(char character)
{
    return character <= '9' ? character - '0' : (character | 0x20) - 'a' + 10;
}

/* The bytes of a UUID's canonical text. */
static bool parse_uuid(Span text, char packed[UUID_BYTES])
{
    if (text.bytes != UUID_CHARACTERS)
        return false;
    const char *at = text.at;
    for (int i = 0; i < UUID_BYTES; i++) {
        at += i == 4 || i == 6 || i == 8 || i == 10; /* a dash */
        packed[i] = (char)(digit_of(at[0]) << 4 | digit_of(at[1]));
        at += 2;
    }
    return true;
}

static int number_at(const char *at, int digits)
{
    int number = 0;
    for (int i = 0; i < digits; i++)
        number = number * 10 + at[i] - '0';
    return number;
}

/* Days since 2000-01-01 in the proleptic Gregorian calendar: years that begin in March have their leap day at the end. */
static int64_t days_since_2000(int year, int month, int day)
{
    if (month < 3) {
        year--;
        month += 12;
    }
    int64_t days = 365 * (int64_t)year + year / 4 - year / 100 + year / 400 + (153 * (month - 3) + 2) / 5 + day - 1;
    return days - 730425; /* that of 2000-01-01 */
}

/* Microseconds since 2000 of a canonical timestamp: 2024-01-15T10:30:00Z, or with a fraction of one to six digits. */
static bool parse_timestamp(Span text, int64_t *microseconds)
{
    const char *at = text.at;
    if (text.bytes < 20 || text.bytes > 27 || at[text.bytes - 1] != 'Z')
        return false;
    int64_t seconds = days_since_2000(number_at(at, 4), number_at(at + 5, 2), number_at(at + 8, 2)) * 86400 +
                      number_at(at + 11, 2) * 3600 + number_at(at + 14, 2) * 60 + number_at(at + 17, 2);
    int fraction = 0, digits = text.bytes > 20 ? (int)text.bytes - 21 : 0;
    if (digits > 0)
        fraction = number_at(at + 20, digits);
    for (int i = digits; i < 6; i++)
        fraction *= 10;
    *microseconds = seconds * 1000000 + fraction;
    return true;
}

static bool text_span(PyObject *value, bool may_be_none, Span *span)
{
    if (may_be_none && value == Py_None) {
        *span = (Span){NULL, -1};
        return true;
    }
    if (!PyUnicode_Check(value))
        return false;
    span->at = PyUnicode_AsUTF8AndSize(value, &span->bytes);
    return span->at != NULL;
}

static bool is_uuid(PyObject *value)
{
    return PyBytes_Check(value) && PyBytes_GET_SIZE(value) == UUID_BYTES;
}

static const char *find(PyObject *record, const char *name)
{
    size_t length = strlen(name);
    const char *at = PyBytes_AS_STRING(record), *end = at + PyBytes_GET_SIZE(record);
    while ((at = memchr(at, '"', (size_t)(end - at))) != NULL) {
        if ((size_t)(end - at) >= length && memcmp(at, name, length) == 0)
            return at;
        at++;
    }
    return NULL;
}

/* -- an event */

typedef struct {
    const char *id, *program, *fingerprint;
    int64_t timestamp;
    Span behind[COLUMNS_BEHIND - 1]; /* key, external id, participant, recipient's external id, recipient */
    char packed[2][UUID_BYTES];      /* participant and recipient */
    Span data, names;
} Parts;

static bool uuid_span(PyObject *value, char packed[UUID_BYTES], Span *span)
{
    if (!text_span(value, true, span))
        return false;
    if (span->bytes < 0)
        return true;
    if (!parse_uuid(*span, packed))
        return false;
    *span = (Span){packed, UUID_BYTES};
    return true;
}

static bool read_record(PyObject *record, Parts *parts)
{
    if (!PyBytes_Check(record) || PyBytes_GET_SIZE(record) < 2)
        return false;
    const char *begin = PyBytes_AS_STRING(record), *end = begin + PyBytes_GET_SIZE(record);
    const char *data = find(record, DATA_NAME), *after_names = find(record, AFTER_NAMES);
    if (data == NULL || after_names == NULL)
        return false;
    data += strlen(DATA_NAME);
    parts->data = (Span){data, end - 1 - data};
    parts->names = (Span){begin + 1, after_names - begin - 1};
    return true;
}

static bool read_parts(PyObject *attributes[ATTRIBUTES], Parts *parts)
{
    Span timestamp;
    PyObject *program = attributes[PROGRAM];
    if (!is_uuid(attributes[ID]) || !is_uuid(attributes[FINGERPRINT]))
        return false;
    if (!PyTuple_Check(program) || PyTuple_GET_SIZE(program) < 2 || !is_uuid(PyTuple_GET_ITEM(program, 1)))
        return false;
    parts->id = PyBytes_AS_STRING(attributes[ID]);
    parts->fingerprint = PyBytes_AS_STRING(attributes[FINGERPRINT]);
    parts->program = PyBytes_AS_STRING(PyTuple_GET_ITEM(program, 1));
    return text_span(attributes[TIMESTAMP], false, &timestamp) && parse_timestamp(timestamp, &parts->timestamp) &&
           text_span(attributes[KEY], false, &parts->behind[0]) &&
           text_span(attributes[EXTERNAL], true, &parts->behind[1]) &&
           uuid_span(attributes[PARTICIPANT], parts->packed[0], &parts->behind[2]) &&
           text_span(attributes[RECIPIENT_EXTERNAL], true, &parts->behind[3]) &&
           uuid_span(attributes[RECIPIENT], parts->packed[1], &parts->behind[4]) &&
           read_record(attributes[RECORD], parts);
}

static PyObject *columns_of(const Parts *parts, int64_t partition, int64_t offset)
{
    Py_ssize_t bytes = FIXED_BYTES + 4 * COLUMNS_BEHIND + 1 + parts->data.bytes;
    for (int i = 0; i < COLUMNS_BEHIND - 1; i++)
        bytes += parts->behind[i].bytes < 0 ? 0 : parts->behind[i].bytes;
    PyObject *columns = PyBytes_FromStringAndSize(NULL, bytes);
    if (columns == NULL)
        return NULL;
    char *to = PyBytes_AS_STRING(columns);
    to = put_int(put_int(to, 4, 4), (uint64_t)partition, 4);
    to = put_int8(put_int8(to, offset), offset); /* the record's, and up to which repeats are counted */
    to = put_span(to, (Span){parts->id, UUID_BYTES});
    to = put_span(to, (Span){parts->program, UUID_BYTES});
    to = put_span(to, (Span){parts->fingerprint, UUID_BYTES});
    to = put_int8(to, parts->timestamp);
    for (int i = 0; i < COLUMNS_BEHIND - 1; i++)
        to = put_span(to, parts->behind[i]);
    to = put_int(to, (uint64_t)parts->data.bytes + 1, 4);
    *to++ = JSONB_VERSION;
    put(to, parts->data.at, parts->data.bytes);
    return columns;
}

static PyObject *names_of(const Parts *parts)
{
    Py_ssize_t begin = (Py_ssize_t)strlen(BEGIN_OF_NAMES);
    PyObject *names = PyBytes_FromStringAndSize(NULL, begin + UUID_CHARACTERS + 2 + parts->names.bytes);
    if (names == NULL)
        return NULL;
    char *to = put(PyBytes_AS_STRING(names), BEGIN_OF_NAMES, begin);
    to = put_uuid_text(to, (const uint8_t *)parts->id);
    to = put(to, "\",", 2);
    put(to, parts->names.at, parts->names.bytes);
    return names;
}

static PyObject *encode_parts(PyObject *attributes[ATTRIBUTES], int64_t partition, int64_t offset)
{
    Parts parts;
    if (!read_parts(attributes, &parts)) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_TypeError, "is no event as schemas.reader gives them");
        return NULL;
    }
    PyObject *columns = columns_of(&parts, partition, offset);
    PyObject *names = columns == NULL ? NULL : names_of(&parts);
    PyObject *both = names == NULL ? NULL : PyTuple_Pack(2, columns, names);
    Py_XDECREF(columns);
    Py_XDECREF(names);
    return both;
}

static PyObject *encode(PyObject *Py_UNUSED(module), PyObject *const *arguments, Py_ssize_t count)
{
    if (count != 3) {
        PyErr_SetString(PyExc_TypeError, "takes an event, a partition and an offset");
        return NULL;
    }
    long long partition = PyLong_AsLongLong(arguments[1]);
    long long offset = partition == -1 && PyErr_Occurred() ? -1 : PyLong_AsLongLong(arguments[2]);
    if (PyErr_Occurred())
        return NULL;
    PyObject *attributes[ATTRIBUTES] = {NULL}, *both = NULL;
    int got = 0;
    while (got < ATTRIBUTES && (attributes[got] = PyObject_GetAttr(arguments[0], attribute_names[got])) != NULL)
        got++;
    if (got == ATTRIBUTES)
        both = encode_parts(attributes, partition, offset);
    for (int i = 0; i < got; i++)
        Py_DECREF(attributes[i]);
    return both;
}

static PyMethodDef methods[] = {
    {"encode", (PyCFunction)(void (*)(void))encode, METH_FASTCALL, "See processors.encoding.encode."},
    {NULL, NULL, 0, NULL},
};

static int intern_names(PyObject *Py_UNUSED(module))
{
    for (int i = 0; i < ATTRIBUTES; i++)
        if (attribute_names[i] == NULL && (attribute_names[i] = PyUnicode_InternFromString(ATTRIBUTE_NAMES[i])) == NULL)
            return -1;
    return 0;
}

static PyModuleDef_Slot module_slots[] = {{Py_mod_exec, intern_names}, {0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, "processors._encode", "An event's columns and names.", 0, methods, module_slots, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__encode(void)
{
    return PyModuleDef_Init(&module);
}
