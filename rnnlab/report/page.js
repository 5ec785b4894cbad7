document.querySelectorAll('table').forEach(function (table) {
  var heads = table.querySelectorAll('thead th'), body = table.tBodies[0];
  heads.forEach(function (head, column) {
    head.querySelector('button').addEventListener('click', function () {
      var down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(function (other) { other.removeAttribute('aria-sort'); });
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      function key(row) {
        var cell = row.cells[column], given = cell.dataset.sort;
        var value = given === undefined ? cell.textContent : given;
        return value === '' || isNaN(value) ? value.toLowerCase() : Number(value);
      }
      var rows = Array.from(body.rows);
      rows.sort(function (a, b) {
        var x = key(a), y = key(b);
        if (typeof x !== typeof y) { return typeof x === 'number' ? -1 : 1; }
        var order = x < y ? -1 : x > y ? 1 : 0;
        return down ? -order : order;
      });
      rows.forEach(function (row) { body.appendChild(row); });
    });
  });
});
function hint() {
  document.querySelectorAll('.hint').forEach(function (one) {
    var box = one.previousElementSibling;
    one.hidden = box.scrollWidth <= box.clientWidth;
  });
}
function reveal() {
  var target = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target && target.tagName === 'DETAILS') { target.open = true; target.scrollIntoView(); }
}
addEventListener('hashchange', reveal);
addEventListener('beforeprint', function () {
  document.querySelectorAll('details').forEach(function (one) { one.open = true; });
});
reveal();
addEventListener('resize', hint);
hint();
