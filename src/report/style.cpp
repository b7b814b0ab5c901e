// SPDX-License-Identifier: Apache-2.0
#include "report/style.hpp"

namespace dino::report {

// Colours of models (--m1 ...) are hues of Okabe and Ito (2008), which stay apart for all common forms of
// colour blindness, each at a contrast of 3 or more to its page; the dark theme has lighter tints of the same
// hues. Floors (--f1, --f2) are greys. Text is never fainter than a contrast of 4.5. What is no model (bars,
// training curves) has colours of its own. tests/cli/browser.sh measures this.
const char* style_sheet() {
  return R"css(:root{color-scheme:light dark;
--bg:#fbfaf8;--panel:#ffffff;--fg:#1d2126;--soft:#464e57;--muted:#59626b;--line:#e1ddd5;--grid:#ece8e1;
--accent:#1f5f8b;--good:#17694a;--warn:#855400;--bad:#a93512;--good-bg:#e6f3ec;--warn-bg:#fbf0d9;--bad-bg:#fbe7df;
--m1:#0072b2;--m2:#cf5a00;--m3:#00875f;--m4:#b8478a;--m5:#a87400;--m6:#2f8fc6;--m7:#6a51a3;--m8:#7a5a2e;--f1:#4b5158;--f2:#858c94;
--bar:#54788f;--lost:#b57a4e;--t1:var(--bar);--t2:#a35a2a;--t3:#5d5f8f;
--serif:Charter,"Bitstream Charter","Sitka Text",Cambria,"Liberation Serif",Georgia,serif;
--sans:Inter,"Source Sans 3",system-ui,-apple-system,"Segoe UI",Roboto,"Liberation Sans",Arial,sans-serif;
--mono:ui-monospace,"SF Mono","Cascadia Mono","Liberation Mono",Menlo,Consolas,monospace}
@media screen and (prefers-color-scheme:dark){:root{
--bg:#14171b;--panel:#1a1e23;--fg:#e4e6e8;--soft:#bcc3ca;--muted:#9aa3ac;--line:#2d333a;--grid:#262c32;
--accent:#79b8e6;--good:#63c79b;--warn:#e3b04b;--bad:#f0896a;--good-bg:#16291f;--warn-bg:#2d2614;--bad-bg:#331d16;
--m1:#4ba3dc;--m2:#f08a4b;--m3:#41c79b;--m4:#de7fb4;--m5:#e6b345;--m6:#9ad4f5;--m7:#a996e0;--m8:#c9a877;--f1:#c3c9cf;--f2:#868e97;
--bar:#7ba3bb;--lost:#a8754e;--t2:#dd9766;--t3:#a9abd9}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-padding-top:1.5rem}
body{margin:0;background:var(--bg);color:var(--fg);font:400 0.9375rem/1.6 var(--sans)}
.skip{position:absolute;left:-999rem}.skip:focus{left:1rem;top:1rem;background:var(--panel);padding:.5rem 1rem;z-index:9}
a{color:var(--accent);text-decoration-thickness:.06em;text-underline-offset:.18em}
.frame{display:grid;grid-template-columns:13.5rem minmax(0,68rem);gap:3.5rem;max-width:88rem;margin:0 auto;padding:0 2rem}
nav{position:sticky;top:0;align-self:start;max-height:100vh;overflow:auto;padding:2rem 0 2rem;font-size:.8125rem}
nav .brand{margin:0 0 1rem;font-weight:650;letter-spacing:.02em;color:var(--soft)}
nav ol{list-style:none;margin:0;padding:0;border-left:1px solid var(--line)}
nav a{display:block;padding:.24rem 0 .24rem .9rem;margin-left:-1px;border-left:2px solid transparent;color:var(--muted);text-decoration:none;line-height:1.35}
nav a:hover,nav a:focus-visible{color:var(--fg);border-left-color:var(--accent)}
main{padding:1.7rem 0 6rem;min-width:0}
h1{font:600 1.875rem/1.18 var(--serif);letter-spacing:-.012em;margin:0 0 .25rem;text-wrap:balance}
.subtitle{margin:0;color:var(--muted);font-size:.9375rem}
section{margin-top:3.25rem}#summary{margin-top:.9rem}#summary>h2{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}#summary>h3{margin:1.1rem 0 .3rem}
h2{font:600 1.4375rem/1.25 var(--serif);letter-spacing:-.006em;margin:0 0 1rem;padding-top:1.1rem;border-top:1px solid var(--line)}
h3{font:650 .9375rem/1.35 var(--sans);margin:2.1rem 0 .6rem}
p{margin:.6rem 0;max-width:46rem}.lead{font:400 1.0625rem/1.6 var(--serif);color:var(--soft)}
.note{color:var(--muted);font-size:.8125rem}
code,pre,.mono{font-family:var(--mono);font-size:.8125rem}
code{overflow-wrap:anywhere}
pre{background:var(--panel);border:1px solid var(--line);border-radius:.35rem;padding:.8rem 1rem;overflow:auto;max-height:28rem;line-height:1.5}
details{margin:.8rem 0}summary{cursor:pointer;color:var(--accent);font-size:.875rem}
ul.checks{list-style:none;margin:1rem 0 0;padding:0}
ul.checks>li{display:grid;grid-template-columns:5.2rem minmax(0,1fr);gap:.4rem;align-items:baseline;border-left:.25rem solid var(--line);padding:.16rem 0 .16rem .8rem;font-size:.875rem;line-height:1.45}
ul.checks b{font-weight:620}ul.checks .why{color:var(--soft)}ul.checks details{display:inline-block;margin:0 0 0 .5rem;vertical-align:top}ul.checks details[open]{display:block;margin-left:0}ul.checks summary{font-size:.8125rem}ul.checks details ul{margin:.2rem 0 .4rem;padding-left:1.1rem;font-size:.8125rem;color:var(--soft)}
ul.places{margin:.5rem 0 0;padding:0;list-style:none;color:var(--soft);font-size:.875rem;line-height:1.45}
.chip{font-size:.75rem;font-weight:650;letter-spacing:.015em;white-space:nowrap}
ul.checks>li.green{border-left-color:var(--good)}ul.checks>li.amber{border-left-color:var(--warn)}ul.checks>li.red{border-left-color:var(--bad)}
.green .chip{color:var(--good)}.amber .chip{color:var(--warn)}.red .chip{color:var(--bad)}
dl.facts{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:0;margin:.4rem 0 0;border-top:1px solid var(--line);border-bottom:1px solid var(--line)}
dl.facts div{padding:.45rem 1rem .45rem 0}dl.facts dt{color:var(--muted);font-size:.75rem}
dl.facts dd{margin:.1rem 0 0;font:600 1.3125rem/1.25 var(--serif);font-variant-numeric:tabular-nums lining-nums}
dl.facts dd small{font:400 .75rem/1.3 var(--sans);color:var(--muted);display:block;overflow-wrap:anywhere}
.table{overflow-x:auto;margin:1rem 0 1.4rem}
table{border-collapse:collapse;width:100%;font-size:.8438rem;font-variant-numeric:tabular-nums lining-nums;line-height:1.4}
caption{text-align:left;color:var(--muted);font-size:.8125rem;padding:0 0 .5rem}
th{text-align:left;font-weight:620;color:var(--soft);border-bottom:1.5px solid var(--soft);padding:.35rem .9rem .35rem 0;vertical-align:bottom;white-space:nowrap}
td{padding:.36rem .9rem .36rem 0;border-bottom:1px solid var(--grid);vertical-align:top}
th.num,td.num{text-align:right;padding-left:.6rem}td.num{white-space:nowrap}
th:last-child,td:last-child{padding-right:.2rem}
tbody tr:hover td{background:color-mix(in srgb,var(--accent) 5%,transparent)}
th button{all:unset;cursor:pointer}th button:hover{color:var(--accent)}th button:focus-visible{outline:2px solid var(--accent);outline-offset:2px}
th[aria-sort=ascending]::after{content:" \2191"}th[aria-sort=descending]::after{content:" \2193"}
table.summary{font-size:.875rem;width:auto;line-height:1.3}table.summary th,table.summary td{padding:.24rem 1.15rem .24rem 0}
.summary caption{padding-bottom:.2rem}.summary thead th{white-space:normal;overflow-wrap:break-word}.summary tbody th{border-bottom:1px solid var(--grid);color:var(--fg);font-weight:400}
.summary tbody th b{display:inline-block;min-width:9.5rem;font-weight:620}.summary .again b{font-weight:400;color:var(--muted)}.summary small{color:var(--muted);font-size:.75rem;font-weight:400}
.summary .best{font-weight:680}.summary .tied{font-weight:500}.summary td .mark{display:inline-block;width:1.1em;text-align:center;color:var(--accent)}
.summary tfoot td,.summary tfoot th{border-bottom:0;border-top:1.5px solid var(--soft);color:var(--soft);font-weight:400;text-align:right}.summary tfoot th{text-align:left}
.model{display:inline-flex;align-items:baseline;text-align:left}.model .swatch{flex:none}
.swatch{display:inline-block;width:.62rem;height:.62rem;border-radius:50%;background:var(--c);margin-right:.4rem}.swatch.square{border-radius:0}
.floor{color:var(--soft);font-style:italic}.reference,.reference *{color:var(--muted)}
.figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));gap:1.6rem 2.2rem;margin:1.2rem 0}
figure{margin:0}figure.plot{min-width:0;max-width:36rem}figure.plot figcaption{font-size:.8438rem;margin-bottom:.35rem}
figure.plot figcaption b{font-weight:620}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.05rem .95rem;margin:.15rem 0 0;padding:0;font-size:.75rem;color:var(--soft)}
.legend li{display:flex;align-items:center;gap:.4rem}.legend svg{width:1.4rem;height:.6rem;flex:none}
figure.plot>svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-family:var(--sans);font-size:12px;fill:var(--muted);font-variant-numeric:tabular-nums}
svg .name{fill:var(--fg)}svg .value{fill:var(--fg)}
svg .grid{stroke:var(--grid);stroke-width:1}svg .axis{stroke:var(--muted);stroke-width:1}
svg .line{fill:none;stroke-width:1.7;stroke-linejoin:round;stroke-linecap:round}svg .raw{stroke-width:.8;opacity:.32}svg .dashed{stroke-dasharray:5 4;stroke-width:1.3}svg .shade2{stroke-dasharray:9 3}svg .shade3{stroke-dasharray:2 3}
.run{--t1:var(--run);--t2:color-mix(in oklab,var(--run) 55%,var(--fg));--t3:color-mix(in oklab,var(--run) 45%,var(--muted))}
svg .marker{stroke:var(--bad);stroke-width:1.5;stroke-dasharray:5 4}svg .bar{fill:var(--bar)}svg .lost{fill:var(--lost)}
svg .empty{fill:var(--muted);font-style:italic}
)css"
         // One literal may hold 64 KiB at most in the standard; two keep each readable.
         R"css(.gallery{display:flex;flex-wrap:wrap;gap:.8rem;margin:1rem 0;align-items:flex-start}
.picture{width:6.5rem;font-size:.6875rem;line-height:1.35;color:var(--muted);overflow-wrap:anywhere}
.picture img{display:block;width:100%;height:6.5rem;object-fit:contain;background:var(--panel);border:1px solid var(--line);border-radius:.2rem;image-rendering:auto}
.picture figcaption{margin-top:.25rem}
.picture.kept img,.picture.good img{border:2px solid var(--good)}
.picture.dropped img,.picture.bad img{border:2px dashed var(--bad)}
.picture.query img{border:2px solid var(--fg)}
.picture.kept figcaption,.picture.good figcaption{color:var(--good)}.picture.bad figcaption{color:var(--bad)}
.strips.pca,.strips.segment{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));gap:0 2rem}.strips.neighbours .picture{width:5.6rem}.strips.neighbours .picture img{height:5.6rem}.strips.pca .picture{width:9.5rem}.strips.pca .picture img{height:9.5rem}
.strips.segment{grid-template-columns:repeat(auto-fill,minmax(min(100%,30rem),1fr))}.strip>p.note{overflow-wrap:anywhere}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,15.5rem),1fr));gap:0 1.4rem}.pair{border-bottom:1px solid var(--grid);padding:.2rem 0}.pair .gallery{margin:.3rem 0 .5rem}
.strip{border-bottom:1px solid var(--grid);padding:.2rem 0}.strip:last-child{border-bottom:0}
.matrix{font-size:.75rem;width:auto}.matrix td,.matrix th{padding:.18rem .35rem;border:0;text-align:right;white-space:nowrap}
.matrix th{color:var(--muted);font-weight:400}.matrix thead th{writing-mode:vertical-rl;transform:rotate(180deg);text-align:left;vertical-align:top}
.matrix td{min-width:2.1rem;background:color-mix(in srgb,var(--cell,var(--bar)) calc(var(--share)*45%),transparent)}
.matrix td.wrong{--cell:var(--lost)}.matrix td.diagonal{outline:1px solid var(--line);outline-offset:-1px}
.within{color:var(--muted)}.up{color:var(--good)}.down{color:var(--bad)}
@media (max-width:62rem){.frame{display:block;padding:0 1.25rem}
nav{position:static;padding:1rem 0 0;max-height:none}nav .brand{margin-bottom:.4rem}
nav ol{display:flex;flex-wrap:wrap;gap:.1rem 1rem;border-left:0}nav a{padding:.15rem 0;border-left:0;margin:0;text-decoration:underline;text-decoration-color:var(--line)}
main{padding-top:1.5rem}h1{font-size:1.6875rem}h2{font-size:1.25rem}section{margin-top:2.4rem}}
@media (max-width:36rem){.frame{padding:0 .9rem}ul.checks>li{grid-template-columns:1fr;gap:.05rem}.picture{width:calc(25% - .6rem);min-width:4.6rem}.picture img{height:4.8rem}
.strips.pca .picture{width:calc(50% - .4rem)}.strips.neighbours .picture{width:calc(25% - .6rem)}.pair .picture{width:calc(50% - .4rem)}
svg text{font-size:14px}
.summary,.summary caption,.summary tbody,.summary tfoot{display:block}table.summary{width:100%}.summary thead tr{display:flex;flex-wrap:wrap;gap:.1rem 1rem;padding-bottom:.4rem}
.summary thead th,table.summary thead th.num{display:block;max-width:none;padding:0;border:0;text-align:left}.summary thead th:first-child{display:none}
.summary tbody tr,.summary tfoot tr{display:grid;grid-template-columns:repeat(auto-fill,minmax(4.55rem,1fr));border-top:1px solid var(--line);padding:.35rem 0}
.summary tbody th,table.summary tfoot th{grid-column:1/-1;padding:0;border:0;white-space:normal;overflow-wrap:anywhere}.summary tbody th b{min-width:0}
table.summary td.num{font-size:.8125rem;padding:.1rem .1rem .1rem 0;border:0;text-align:left}.summary td::before{content:"";display:inline-block;width:.5rem;height:.5rem;border-radius:50%;background:var(--c);margin-right:.15rem}.summary td.square::before{border-radius:0}
.summary td .mark:empty{display:none}.summary td small{display:block;padding-left:.75rem}
.stack thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.stack,.stack tbody,.stack tfoot,.stack tr,.stack caption{display:block;width:100%}.stack tr{border-bottom:1px solid var(--line);padding:.45rem 0}
.stack td,.stack td.num,.stack tbody th{display:grid;grid-template-columns:7.5rem minmax(0,1fr);gap:.6rem;padding:.08rem 0;border:0;text-align:left;white-space:normal;overflow-wrap:anywhere}
.stack td::before{content:attr(data-label);color:var(--muted)}.stack td:empty{display:none}.stack tbody th{display:block}
.matrix,.matrix tbody,.matrix caption{display:block;width:100%}.matrix thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
.matrix tr{display:flex;flex-wrap:wrap;gap:.2rem;padding:.3rem 0;border-bottom:1px solid var(--grid)}.matrix tbody th{flex:0 0 100%;text-align:left;white-space:normal}
.matrix td{padding:.05rem .4rem;white-space:normal;overflow-wrap:anywhere}.matrix td::before{content:attr(data-label) " ";color:var(--soft)}.matrix td:empty{display:none}}
@media print{:root{color-scheme:light;--bg:#fff;--panel:#fff;--fg:#000;--soft:#333;--muted:#4d4d4d;--line:#bbb;--grid:#ddd}
nav,.skip{display:none}.frame{display:block;padding:0;max-width:none}main{padding:0}body{font-size:9.5pt}
section{margin-top:1.5rem}h1,h2,h3,summary,caption,.before,.strip>.note,.lead{break-after:avoid}
thead{display:table-header-group;break-inside:avoid}figure,ul.checks>li,tr,.pair{break-inside:avoid}.summary thead th{max-width:8.6rem;overflow-wrap:anywhere}.summary tbody th b{min-width:0}.summary tbody th small{display:block}table.summary th,table.summary td{padding-right:.5rem}.figures{display:block}figure.plot{max-width:none;width:48%;display:inline-block;vertical-align:top;margin:0 1% 1rem 0}
#results>details,#comparisons{break-before:page}.before,summary{break-inside:avoid}
.swatch,.matrix td{print-color-adjust:exact;-webkit-print-color-adjust:exact}
.table{overflow:visible}table{font-size:7.5pt}td,th{overflow-wrap:break-word;white-space:normal;padding-right:.5rem}td code,td:last-child{overflow-wrap:anywhere}td code{font-size:6.5pt}table.summary{font-size:8pt}table.summary small{font-size:6.5pt}pre{max-height:none;white-space:pre-wrap;overflow-wrap:anywhere}
details::details-content{content-visibility:visible;block-size:auto;opacity:1}summary{list-style:none;color:inherit;font-weight:620}
a{color:inherit;text-decoration:none}}
)css";
}

const char* page_script() {
  return R"js(addEventListener("beforeprint",function(){
  document.querySelectorAll("details:not([open])").forEach(function(d){d.open=true;d.dataset.folded="";});
});
addEventListener("afterprint",function(){
  document.querySelectorAll("details[data-folded]").forEach(function(d){d.open=false;delete d.dataset.folded;});
});
document.querySelectorAll("table.sortable").forEach(function(t){
  var heads=Array.from(t.tHead.rows[0].cells);
  function key(row,i,numeric){
    var s=row.cells[i].textContent.trim();
    if(!numeric)return s.toLowerCase();
    var v=parseFloat(s.replace(/[,\s]/g,"").replace("\u2212","-"));
    return isNaN(v)?-Infinity:v;
  }
  function sort(i){
    var th=heads[i],numeric=th.classList.contains("num");
    var up=th.getAttribute("aria-sort")==="descending"||(th.getAttribute("aria-sort")!=="ascending"&&!numeric);
    heads.forEach(function(h){h.setAttribute("aria-sort","none");});
    th.setAttribute("aria-sort",up?"ascending":"descending");
    var rows=Array.from(t.tBodies[0].rows);
    rows.sort(function(a,b){var x=key(a,i,numeric),y=key(b,i,numeric);return (x<y?-1:x>y?1:0)*(up?1:-1);});
    rows.forEach(function(r){t.tBodies[0].appendChild(r);});
  }
  heads.forEach(function(th,i){
    var b=document.createElement("button");
    b.type="button";b.title="Sort by this column";
    while(th.firstChild)b.appendChild(th.firstChild);
    th.appendChild(b);
    b.addEventListener("click",function(){sort(i);});
  });
});
)js";
}

}  // namespace dino::report
